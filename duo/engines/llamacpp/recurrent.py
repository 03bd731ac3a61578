"""What the states of a model with recurrent layers take, and how many of them there are to be.

A state is a block of numbers per sequence. It does not grow with the context, but is as large as hundreds of tokens'
keys and values. So it is counted before a context is chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp

from duo.engines.llamacpp import native
from duo.engines.llamacpp.checkpoints import LEAST
from duo.engines.options import EngineOptions

SNAPSHOTS, SNAPSHOT_BYTES = 8, 1 << 31
"""Most snapshots per slot, and bytes for those of all slots together. A state of a 27B model takes 150 MiB."""
TREE_BYTES = 1 << 29
"""For the states of all slots and rows of a draft model. That of a Qwen3.5-0.8B takes 19 MiB."""
LEAST_ROOM = 4
"""Rows per slot that there is room for whatever they take. With less there is nothing to draft."""
SPACING = 512
"""Tokens between two checkpoints, and most tokens of a prompt in one decode of a recurrent model."""
CHECKPOINT_BYTES = 1 << 30
"""For the checkpoints of all slots together."""


class States(NamedTuple):
    """bytes: of one state. goes_back: whether llama.cpp keeps snapshots of them where it is asked for some."""

    bytes: int
    goes_back: bool

    def snapshots(self, options: EngineOptions) -> int:
        """How many states of earlier rows llama.cpp is to keep for each slot of a target."""
        if not self.goes_back or not options.draft_max:
            return 0
        affordable = SNAPSHOT_BYTES // max(1, options.slots * self.bytes) - 1
        return max(1, min(options.draft_max, SNAPSHOTS, affordable))

    def rows(self, options: EngineOptions) -> int:
        """How many rows of trees, each with a state, a draft model is to have room for."""
        slots = options.slots
        most: int = llama_cpp.llama_max_parallel_sequences() - slots
        affordable = max(LEAST_ROOM * slots, TREE_BYTES // max(1, self.bytes) - slots)
        return max(1, min(options.tree_rows, affordable, most))

    def held(self, options: EngineOptions) -> int:
        """Bytes of the states that llama.cpp holds from the start."""
        slots = options.slots
        if options.drafts:
            return (slots + self.rows(options)) * self.bytes
        return slots * (1 + self.snapshots(options)) * self.bytes

    def copies(self, options: EngineOptions, context: int) -> int:
        """Bytes of checkpoints at most, in slots of so many tokens, and of the states from before guesses."""
        slots = options.slots
        most = max(CHECKPOINT_BYTES, slots * LEAST * self.bytes)
        return slots * self.bytes + min(most, slots * (LEAST + context // SPACING) * self.bytes)


def find(path: Path, model: Any, options: EngineOptions) -> States:
    """What a state takes is known only once there is one, so a small context reads a token. Raises ModelError."""
    context = native.make_context(path, model, options, 256, 16, 1, snapshots=1)
    try:
        code = native.Batch(1).decode(context, [0], [0], [(0,)], slice(1))
        if code:
            raise native.failed(code)
        size: int = llama_cpp.llama_state_seq_get_size_ext(context, 0, native.PARTIAL)
        return States(size, llama_cpp.llama_n_rs_seq(context) > 0)
    finally:
        llama_cpp.llama_free(context)
