"""What llama.cpp's engines believe about their sequences, against what llama.cpp has."""

from __future__ import annotations

import llama_cpp

from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.engines.llamacpp.states import StateTreeEngine


def assert_books_agree(engine: LlamaCppEngine) -> None:
    """The engine's books agree with llama.cpp, and no sequence has a hole."""
    memory = engine.memory
    believed = dict.fromkeys(engine.pool.empty, 0)
    for tree in engine.trees:
        assert tree.root.parent is None
        assert all(tip is tree.root or tree.rows[tip.id] is tip for tip in tree.tips.values())
        believed |= {seq: 0 if tree.aside is not None else tip.pos + 1 for seq, tip in tree.tips.items()}
        believed |= {seq: engine.pool.committed[seq] for seq in tree.spares}
        if tree.guard is not None:
            believed[tree.guard] = 1 + max(node.pos for node in (tree.root, *tree.rows.values()))
    assert sorted(believed) == list(range(len(engine.pool.committed)))
    for seq, length in believed.items():
        assert llama_cpp.llama_memory_seq_pos_max(memory, seq) == length - 1
        assert llama_cpp.llama_memory_seq_pos_min(memory, seq) == min(0, length - 1)
    assert engine.pool.spare_cells == sum(engine.pool.committed[seq] for tree in engine.trees for seq in tree.spares)
    assert engine.rows == {row: node for tree in engine.trees for row, node in tree.rows.items()}


def assert_states_agree(engine: StateTreeEngine) -> None:
    """The engine's books agree with llama.cpp."""
    believed = dict.fromkeys(engine.free_sequences, 0)
    believed |= {tree.seq: tree.read for tree in engine.trees}
    believed |= {node.seq: node.pos + 1 for node in engine.rows.values() if node.seq is not None}
    assert sorted(believed) == list(range(engine.slots + engine.capacity))
    stale = {tree.seq for tree in engine.trees if tree.stale}
    for seq, length in believed.items():
        if seq not in stale:
            assert llama_cpp.llama_memory_seq_pos_max(engine.memory, seq) == length - 1
