"""Slots of the engine for trees, copied into the memory of the host and back.

A saved state lacks the cells that are out of sight at its end, if layers have a window. So a slot of such a model is
saved in pieces. Each is no longer than the window, and lies in a sequence of its own meanwhile. Then no cell is out of
sight, and a restored slot can be cut to any length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp

from duo.engines.llamacpp import native
from duo.engines.llamacpp.native import seq_cp, seq_rm
from duo.engines.llamacpp.sequences import SequencePool, SlotTree
from duo.engines.slot_copy import SlotCopy
from duo.errors import ContextError


def save(llama: Any, memory: Any, tree: SlotTree, pool: SequencePool, trees: list[SlotTree], window: int) -> SlotCopy:
    """Copy the committed tokens of a slot without rows. window: 0 if no layer has one. Raises ContextError."""
    length = tree.root.pos + 1
    if tree.aside is not None:
        return SlotCopy(length, {"0": tree.aside}, {})
    arrays: dict[str, native.State] = {}
    with _borrowed(memory, tree, pool, trees, window) as seq:
        for begin, end in _pieces(length, window):
            if window:
                seq_cp(memory, tree.root.seq, seq, begin, end)
            state = native.save_state(llama, seq, 0)
            if window:
                seq_rm(memory, seq, -1, -1)
            if state is None:
                raise ContextError("llama.cpp does not give a copy of this slot")
            arrays[str(begin)] = state
    return SlotCopy(length, arrays, {})


def restore(
    llama: Any, memory: Any, tree: SlotTree, pool: SequencePool, trees: list[SlotTree], window: int, copy: SlotCopy
) -> None:
    """Put a copy into an empty slot. Raises ContextError if that fails; the slot is empty then."""
    owners = [tree.root.seq] if tree.guard is None else [tree.root.seq, tree.guard]
    with _borrowed(memory, tree, pool, trees, window) as seq:
        for begin, end in _pieces(copy.length, window):
            if not _put(llama, memory, seq, copy, begin, end):
                for used in (seq, *owners):
                    seq_rm(memory, used, -1, -1)
                raise native.refused()
            if window:
                # Before the next piece: llama.cpp would take cells away that are out of sight and that one has.
                for owner in owners:
                    seq_cp(memory, seq, owner, begin, end)
                seq_rm(memory, seq, -1, -1)
    tree.root.pos = copy.length - 1


def _put(llama: Any, memory: Any, seq: int, copy: SlotCopy, begin: int, end: int) -> bool:
    """Whether the sequence holds the piece now."""
    try:
        state = copy.raw(str(begin))
    except ValueError:
        return False
    return (
        native.restore_state(llama, seq, state, 0)
        and llama_cpp.llama_memory_seq_pos_min(memory, seq) == begin
        and llama_cpp.llama_memory_seq_pos_max(memory, seq) == end - 1
    )


def _pieces(length: int, window: int) -> Iterator[tuple[int, int]]:
    step = window or max(1, length)
    for begin in range(0, length, step):
        yield begin, min(length, begin + step)


@contextmanager
def _borrowed(memory: Any, tree: SlotTree, pool: SequencePool, trees: list[SlotTree], window: int) -> Iterator[int]:
    """An empty sequence for pieces; without a window the slot's own one. Raises ContextError if there is none."""
    if not window:
        yield tree.root.seq
        return
    seq = pool.take(tree, trees)
    seq_rm(memory, seq, -1, -1)
    try:
        yield seq
    finally:
        seq_rm(memory, seq, -1, -1)
        pool.give(tree, seq, 0)
