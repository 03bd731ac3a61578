"""What the states of a model with recurrent layers take, and how many of them memory holds.

A state is a block of numbers per sequence. It does not grow with the context, but it is as large as the keys and values
of hundreds of tokens. So states are counted before a context is chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp

from duo.engines.llamacpp import native
from duo.engines.llamacpp.checkpoints import MIN_CHECKPOINTS
from duo.engines.options import EngineOptions

MAX_SNAPSHOTS, SNAPSHOT_BYTES = 8, 1 << 31
"""Most snapshots of a slot, and bytes for the snapshots of all slots. A state of a 27B model takes 150 MiB."""
TREE_BYTES = 1 << 29
"""Bytes for the states of all slots and rows of a draft model. A state of Qwen3.5-0.8B takes 19 MiB."""
MIN_ROWS = 4
"""A draft model has at least this many rows per slot, even beyond `TREE_BYTES`: with fewer it cannot draft."""
SPACING = 512
"""Tokens between two checkpoints. Also the most tokens of a prompt in one decode of a recurrent model."""
CHECKPOINT_BYTES = 1 << 30
"""Bytes for the checkpoints of all slots."""


class States(NamedTuple):
    """bytes: of one state. goes_back: llama.cpp can keep snapshots of states."""

    bytes: int
    goes_back: bool

    def snapshots(self, options: EngineOptions) -> int:
        """How many states of earlier rows llama.cpp keeps for each slot of a target."""
        if not self.goes_back or not options.draft_max:
            return 0
        affordable = SNAPSHOT_BYTES // max(1, options.slots * self.bytes) - 1
        return max(1, min(options.draft_max, MAX_SNAPSHOTS, affordable))

    def rows(self, options: EngineOptions) -> int:
        """How many rows of trees, each with a state, a draft model holds."""
        slots = options.slots
        max_rows: int = llama_cpp.llama_max_parallel_sequences() - slots
        affordable = max(MIN_ROWS * slots, TREE_BYTES // max(1, self.bytes) - slots)
        return max(1, min(options.tree_rows, affordable, max_rows))

    def resident_bytes(self, options: EngineOptions) -> int:
        """Bytes of the states that llama.cpp holds from the start."""
        slots = options.slots
        if options.drafts:
            return (slots + self.rows(options)) * self.bytes
        return slots * (1 + self.snapshots(options)) * self.bytes

    def checkpoint_bytes(self, options: EngineOptions, context: int) -> int:
        """Most bytes of checkpoints, and of the states from before guesses. context: tokens of a slot."""
        slots = options.slots
        limit = max(CHECKPOINT_BYTES, slots * MIN_CHECKPOINTS * self.bytes)
        return slots * self.bytes + min(limit, slots * (MIN_CHECKPOINTS + context // SPACING) * self.bytes)


def find(path: Path, model: Any, options: EngineOptions) -> States:
    """The states of a model. Their size is known only once there is one, so a small context reads a token.

    Raises ModelError.
    """
    context = native.make_context(path, model, options, 256, 16, 1, snapshots=1)
    try:
        code = native.Batch(1).decode(context, [0], [0], [(0,)], slice(1))
        if code:
            raise native.failed(code)
        size: int = llama_cpp.llama_state_seq_get_size_ext(context, 0, native.PARTIAL)
        return States(size, llama_cpp.llama_n_rs_seq(context) > 0)
    finally:
        llama_cpp.llama_free(context)
