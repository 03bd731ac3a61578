"""The committed tokens of slots in llama.cpp's memory, for models that cannot drop any token at any time.

The engine knows a slot's tokens, so llama.cpp's memory of the slot need not be right at all times. If llama.cpp
cannot go back as far as needed, the slot becomes `stale`. Before its next tokens a checkpoint is put back, and what
lies between is read again. That also mends a slot after a decode that failed.

A decode of a recurrent model cannot be aborted without harm: llama.cpp moves the states of other sequences in the same
graph. So such a decode always runs to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

from duo.engines import checks
from duo.engines.base import Chunk
from duo.engines.llamacpp import native
from duo.engines.llamacpp.checkpoints import Checkpoint, Checkpoints
from duo.engines.llamacpp.native import seq_cp, seq_rm
from duo.engines.llamacpp.recurrent import SPACING
from duo.engines.llamacpp.runtime import Model, Runtime
from duo.engines.options import EngineOptions
from duo.engines.slot_copy import SlotCopy
from duo.errors import ContextError, ModelError

MIN_GAP_TARGET, MIN_GAP_DRAFT = 1, 64
"""The end of a prompt gets a checkpoint if the last one lies at least this many tokens before it. A draft model reads a
few tokens after each wrong guess, and has no use for a copy each time."""
MAX_RIDERS = 8
"""Committed tokens that may ride along with a slot's next rows. More have their own decode.

As many tokens at the end of a prompt are left for then. In the next turn a chat template may write the beginning of the
answer otherwise, for instance without a mark that opens a thought. The checkpoint lies before that.
"""


class Slot:
    """One sequence of committed tokens."""

    rows: Any
    """Ids of live rows. Subclasses choose the type."""

    def __init__(self, seq: int, checkpoint_bytes: int) -> None:
        self.seq = seq
        """llama.cpp's sequence of the committed tokens."""
        self.tokens: list[int] = []
        """The committed tokens."""
        self.read = 0
        """Tokens that the sequence holds, those of rows included, unless it is `stale`."""
        self.undoable = 0
        """How many of the last tokens came in the last decode: only these can llama.cpp take back."""
        self.stale = False
        """Whether llama.cpp's memory of the slot is wrong."""
        self.prompted = False
        """Whether tokens of a prompt were read since the last rows."""
        self.before: Checkpoint | None = None
        """The state before the last rows."""
        self.saved = Checkpoints(checkpoint_bytes)

    def checkpoint(self, length: int) -> Checkpoint | None:
        """The latest copied state of at most `length` tokens."""
        saved, before = self.saved.newest(length), self.before
        if before is not None and before.length <= length and (saved is None or saved.length < before.length):
            return before
        return saved

    def cut(self, length: int) -> None:
        """Forget what is known of tokens past `length`."""
        del self.tokens[length:]
        self.saved.cut(length)
        if self.before is not None and self.before.length > length:
            self.before = None


class SlotRuntime(Runtime):
    """Base of engines whose slots each have one sequence for the committed tokens. Subclasses say what rows are.

    snapshots: states of earlier rows that llama.cpp keeps for each sequence. apart: each sequence has its own stream of
    cells, so that only neighbours share a pass. width: most tokens of a decode.
    """

    def __init__(
        self,
        model: Model,
        options: EngineOptions,
        context: object,
        batch: int,
        capacity: int,
        snapshots: int,
        apart: bool,
        width: int,
    ) -> None:
        super().__init__(model, options, context, batch, capacity)
        self.neighbours = apart
        self.spacing = SPACING if model.recurrent else 1
        self.snapshots = snapshots
        self._width = width
        self._batch = native.Batch(width)
        self._stop = None if model.recurrent else native.Stop(self.llama)
        self._min_gap = MIN_GAP_DRAFT if options.drafts else MIN_GAP_TARGET
        self._tail = MAX_RIDERS if model.recurrent else 0

    def _slot(self, slot: int) -> Slot:
        raise NotImplementedError

    def _forget_rows(self, slot: int) -> None:
        """Forget the slot's rows. Its memory may still hold them."""
        raise NotImplementedError

    def _read_alone(self, chunk: Chunk) -> None:
        """Append a chunk, of any length, in a pass without rows. If that fails, the slot is as before."""
        raise NotImplementedError

    def _lose(self) -> None:
        """A decode failed in the middle. It may have moved the states of any sequence."""
        raise NotImplementedError

    @property
    def _state_mib(self) -> float:
        """MiB of a recurrent state."""
        return self.model.states.bytes / 2**20 if self.model.states is not None else 0.0

    def length(self, slot: int) -> int:
        return len(self._slot(slot).tokens)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        state = self._slot(slot)
        if len(tokens):
            checks.check_tokens(tokens, self.size)
        self._forget_rows(slot)
        self._go_back(state)
        if len(tokens):
            checks.check_context(len(state.tokens) + len(tokens), self.context)
            self._read_alone(Chunk(slot, tokens))

    def restorable(self, slot: int, length: int) -> int:
        state = self._slot(slot)
        if not self.recurrent or length >= len(state.tokens) or (state.read <= length and not state.stale):
            return min(length, len(state.tokens))
        checkpoint = state.checkpoint(length)
        return checkpoint.length if checkpoint is not None else 0

    def truncate(self, slot: int, length: int) -> int:
        state = self._slot(slot)
        checks.check_cut(slot, len(state.tokens), length)
        self._forget_rows(slot)
        state.cut(self.restorable(slot, length))
        self._go_back(state)
        return len(state.tokens)

    def share(self, source: int, target: int, length: int) -> int:
        giver, taker = self._slot(source), self._slot(target)
        checks.check_share(source, len(giver.tokens), length)
        if giver is taker:
            return self.truncate(target, length)
        self.truncate(target, 0)
        length = self.restorable(source, length)
        if not length:
            return 0
        taker.tokens = giver.tokens[:length]
        if self.model.cells and not self._copy(giver, taker):
            return length  # the tokens are read again, before the slot's next ones
        taker.read = giver.read
        if not self.recurrent:
            self._go_back(taker)
            return length
        taker.stale = True
        if not giver.stale and giver.saved.last < giver.read <= length:
            self._save_checkpoint(giver)
        self._copy_checkpoints(giver, taker, length)
        return length

    @property
    def unsavable(self) -> str:
        if self.model.windowed:
            # llama.cpp leaves out what is out of sight. Only where slots share their cells is there a way round that.
            why = "its attention sees only the last tokens, and a copy would lack the others"
            return why if self.recurrent else f"{why}; with --exact off they can be saved"
        return ""

    def copy_bytes(self, slot: int) -> int:
        state = self._slot(slot)
        return native.state_bytes(self.llama, state.seq) + sum(it.state.nbytes for it in state.saved)

    def save(self, slot: int) -> SlotCopy:
        state = self._slot(slot)
        if self.unsavable:
            raise ContextError(f"{self.name} cannot save slots: {self.unsavable}")
        self._forget_rows(slot)
        self._go_back(state)
        self._mend(state)
        length = len(state.tokens)
        whole = native.save_state(self.llama, state.seq, 0) if length else np.empty(0, dtype=np.uint8)
        if whole is None:
            raise ContextError("llama.cpp does not give a copy of this slot")
        before = [it for it in state.saved if not it.flags & native.ON_DEVICE]
        arrays = {"state": whole, **{str(it.length): it.state for it in before}}
        lengths = sorted({*(it.length for it in before), *range(state.read, length + 1)}) if self.recurrent else None
        return SlotCopy(length, arrays, {"read": state.read}, lengths)

    def restore(self, slot: int, copy: SlotCopy, tokens: Sequence[int]) -> int:
        checks.check_copy(copy, tokens, self.context, self.size)
        self.truncate(slot, 0)
        state, read = self._slot(slot), copy.notes.get("read")
        if not copy.length:
            return 0
        try:
            whole = copy.raw("state")
            before = [Checkpoint(int(name), copy.raw(name), native.PARTIAL) for name in copy.arrays if name != "state"]
        except ValueError as error:
            raise ContextError(f"this is no copy of a slot: {error}") from None
        if not isinstance(read, int) or not 0 <= read <= copy.length:
            raise ContextError("this copy of a slot does not say what it holds")
        if read and not (native.restore_state(self.llama, state.seq, whole, 0) and self._last(state) == read - 1):
            seq_rm(self.memory, state.seq, -1, -1)
            raise native.refused()
        state.tokens, state.read = list(tokens), read
        for checkpoint in sorted(before, key=lambda it: it.length):
            if 0 < checkpoint.length <= read:
                state.saved.add(checkpoint)
        return copy.length

    def _last(self, state: Slot) -> int:
        """Position of the last token in llama.cpp's memory of the slot."""
        return int(llama_cpp.llama_memory_seq_pos_max(self.memory, state.seq))

    def _copy_checkpoints(self, giver: Slot, taker: Slot, length: int) -> None:
        """Give the taker the giver's checkpoints of at most `length` tokens."""
        for checkpoint in giver.saved:
            if checkpoint.length <= length:
                taker.saved.add(checkpoint)
        before = giver.before
        if before and taker.saved.last < before.length <= length and not before.flags & native.ON_DEVICE:
            # The giver writes to its bytes again, so the taker gets its own.
            taker.saved.add(Checkpoint(before.length, before.state.copy(), before.flags))

    def _check_chunks(self, chunks: Sequence[Chunk]) -> dict[int, int]:
        """How many tokens each slot gets. Raises ValueError or ContextError."""
        grown: dict[int, int] = {}
        for slot, tokens, _ in chunks:
            state = self._slot(slot)
            checks.check_chunk(slot, tokens, bool(state.rows) or slot in grown, self.size)
            checks.check_context(len(state.tokens) + len(tokens), self.context)
            grown[slot] = len(tokens)
        return grown

    def _decode(
        self, tokens: list[int], places: list[int], owners: list[Sequence[int]], quiet: slice | list[int]
    ) -> None:
        code = self._batch.decode(self.llama, tokens, places, owners, quiet)
        if code:
            if self.recurrent and code != native.NO_ROOM:
                self._lose()
            raise native.failed(code)

    def _read_chunk(self, slot: int, tokens: Sequence[int]) -> None:
        """Append committed tokens. If that fails, `Slot.cut` takes them back."""
        state = self._slot(slot)
        state.tokens += tokens
        state.prompted = True
        self._catch_up(state, self._tail)

    def _catch_up(self, state: Slot, tail: int = 0) -> None:
        """Read the committed tokens that the slot's memory lacks, except the last `tail`, in decodes without rows."""
        self._mend(state)
        max_tokens = min(self.batch, SPACING) if self.recurrent else self.batch
        while (count := min(max_tokens, len(state.tokens) - tail - state.read)) > 0:
            end = state.read + count
            self._decode(
                state.tokens[state.read : end], list(range(state.read, end)), [(state.seq,)] * count, slice(count)
            )
            state.read, state.undoable = end, count
            if self.recurrent and state.read - state.saved.last >= SPACING:
                self._save_checkpoint(state)

    def _go_back(self, state: Slot) -> None:
        """Make the slot's memory hold its committed tokens and no more, or mark the slot as stale."""
        length = len(state.tokens)
        surplus = state.read - length
        if not length:
            # All of a sequence can always be removed, and that mends it.
            seq_rm(self.memory, state.seq, -1, -1)
            state.read, state.undoable, state.stale = 0, 0, False
        elif state.stale or surplus <= 0:
            return
        elif self.recurrent and not (self.snapshots and surplus < state.undoable and surplus <= self.snapshots):
            state.stale = True
        elif seq_rm(self.memory, state.seq, length, -1):
            state.read, state.undoable = length, 0  # llama.cpp goes back once per decode
        else:
            raise ModelError(f"llama.cpp does not go back over {surplus} tokens, as it promised; please report this")

    def _mend(self, state: Slot) -> None:
        """Put the latest right state back into a stale slot. The tokens after it must be read again."""
        while state.stale:
            checkpoint = state.checkpoint(len(state.tokens))
            if checkpoint is None:
                seq_rm(self.memory, state.seq, -1, -1)
                state.read, state.undoable, state.stale = 0, 0, False
            elif native.restore_state(self.llama, state.seq, checkpoint.state, checkpoint.flags) and seq_rm(
                # In hybrid models the cells of later tokens are still there.
                self.memory, state.seq, checkpoint.length, -1
            ):  # fmt: skip
                state.read, state.undoable, state.stale = checkpoint.length, 0, False
            elif checkpoint is state.before:
                state.before = None
            else:
                state.saved.drop(checkpoint)

    def _prepare(self, state: Slot) -> None:
        """Before rows are run: read what cannot ride along, and copy the state if the next turn may go on from it."""
        self._mend(state)
        if len(state.tokens) - state.read > MAX_RIDERS or not self.recurrent:
            self._catch_up(state, self._tail if state.prompted else 0)
        gap = state.read - state.saved.last
        if self.recurrent and (gap >= SPACING or (state.prompted and gap >= self._min_gap)):
            self._save_checkpoint(state)
        state.prompted = False

    def _save_checkpoint(self, state: Slot) -> None:
        copy = native.save_state(self.llama, state.seq, native.PARTIAL)
        if copy is not None:
            state.saved.add(Checkpoint(state.read, copy, native.PARTIAL))

    def _copy(self, source: Slot, target: Slot) -> bool:
        """Copy all that llama.cpp holds of a slot to an empty one. Returns False if that cannot be done."""
        if self.model.windowed:
            # A saved state lacks the cells that are out of sight at its end; going back would need them. And a hybrid
            # with separate streams gives wrong logits after a fork (llama.cpp of llama-cpp-python 0.3.36).
            forked = not (self.neighbours and self.recurrent)
            if forked:
                seq_cp(self.memory, source.seq, target.seq, -1, -1)
            return forked
        everything = native.save_state(self.llama, source.seq, 0)
        return everything is not None and native.restore_state(self.llama, target.seq, everything, 0)
