"""The committed tokens of slots in llama.cpp's memory, for models that cannot drop any token at any time.

A slot's tokens are known here. So its memory need not be right at all times: where going back took more than llama.cpp
can give, the slot is `stale`. Before its next tokens a checkpoint is put back, and what lies between is read again. The
same mends a slot after a decode that failed.

A decode of a recurrent model cannot be aborted without harm: llama.cpp moves the states of other sequences in the same
graph. So it always runs to its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import llama_cpp

from duo.engines.llamacpp import native
from duo.engines.llamacpp.checkpoints import Checkpoint, Checkpoints
from duo.engines.llamacpp.recurrent import SPACING
from duo.engines.llamacpp.runtime import Model, Runtime
from duo.engines.options import EngineOptions
from duo.errors import ModelError

TARGET_GAP, DRAFT_GAP = 1, 64
"""Tokens since the last checkpoint from which on the end of a prompt gets one. A draft model reads a few tokens at a
time after each wrong guess, and has no use for so many copies."""
RIDERS = 8
"""Committed tokens that are read beside a slot's next rows. More have a decode of their own. So many at the end of a
prompt are left for then: a chat template may write the beginning of the answer otherwise in the next turn, without a
mark that opens a thought, say. The checkpoint at the end of the prompt lies before that."""

_seq_cp = llama_cpp.llama_memory_seq_cp
_seq_rm = llama_cpp.llama_memory_seq_rm


class Slot:
    """`seq`: the sequence of its committed `tokens`. `read`: tokens that this sequence holds, those of rows included,
    unless it is `stale`. `width`: how many of them the last decode can take back, its first one included. `before`: the
    state before the last rows. `prompted`: whether tokens of a prompt were read since the last rows.
    """

    def __init__(self, seq: int, most_bytes: int) -> None:
        self.seq = seq
        self.tokens: list[int] = []
        self.read = 0
        self.width = 0
        self.stale = False
        self.prompted = False
        self.before: Checkpoint | None = None
        self.saved = Checkpoints(most_bytes)

    def checkpoint(self, length: int) -> Checkpoint | None:
        """The longest state of at most `length` tokens that there is a copy of."""
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
    """What engines have in common whose slots each have one sequence for what is committed.

    snapshots: states of earlier rows that llama.cpp keeps for each sequence. apart: whether each has cells of its own.
    most: tokens per decode. Subclasses say what rows are.
    """

    def __init__(
        self, model: Model, options: EngineOptions, context: object, snapshots: int, apart: bool, most: int
    ) -> None:
        super().__init__(model, options, context)
        self._recurrent, self._cells, self._windowed = model.recurrent, model.cells, model.windowed
        self._apart = apart
        self._snapshots = snapshots
        self._arrays = native.Batch(most)
        self._stop = None if model.recurrent else native.Stop(self._llama)
        self._gap = DRAFT_GAP if options.drafts else TARGET_GAP
        self._tail = RIDERS if model.recurrent else 0

    def _slot(self, slot: int) -> Slot:
        raise NotImplementedError

    def _forget_rows(self, slot: int) -> None:
        """Forget the slot's rows. Its memory may hold them still."""
        raise NotImplementedError

    @property
    def _state_mib(self) -> float:
        """MiB of a recurrent state."""
        return self._model.states.bytes / 2**20 if self._model.states is not None else 0.0

    @property
    def neighbours(self) -> bool:
        return self._apart

    @property
    def spacing(self) -> int:
        return SPACING if self._recurrent else 1

    def length(self, slot: int) -> int:
        return len(self._slot(slot).tokens)

    def restorable(self, slot: int, length: int) -> int:
        state = self._slot(slot)
        if not self._recurrent or length >= len(state.tokens) or (state.read <= length and not state.stale):
            return min(length, len(state.tokens))
        checkpoint = state.checkpoint(length)
        return checkpoint.length if checkpoint is not None else 0

    def truncate(self, slot: int, length: int) -> int:
        state = self._slot(slot)
        if not 0 <= length <= len(state.tokens):
            raise ValueError(f"slot {slot} has {len(state.tokens)} tokens, it cannot be cut to {length}")
        self._forget_rows(slot)
        state.cut(self.restorable(slot, length))
        self._go_back(state)
        return len(state.tokens)

    def share(self, source: int, target: int, length: int) -> int:
        giver, taker = self._slot(source), self._slot(target)
        if not 0 <= length <= len(giver.tokens):
            raise ValueError(f"slot {source} has {len(giver.tokens)} tokens, the first {length} cannot be shared")
        if giver is taker:
            return self.truncate(target, length)
        self.truncate(target, 0)
        length = self.restorable(source, length)
        if not length:
            return 0
        taker.tokens = giver.tokens[:length]
        if self._cells and not self._copy(giver, taker):
            return length  # it reads them again, before its next ones
        taker.read = giver.read
        if not self._recurrent:
            self._go_back(taker)
            return length
        taker.stale = True
        if not giver.stale and giver.saved.last < giver.read <= length:
            self._checkpoint(giver)
        for checkpoint in giver.saved:
            if checkpoint.length <= length:
                taker.saved.add(checkpoint)
        before = giver.before
        if before and taker.saved.last < before.length <= length and not before.flags & native.ON_DEVICE:
            # The other's bytes are used again, so these are its own.
            taker.saved.add(Checkpoint(before.length, before.state.copy(), before.flags))
        return length

    def _decode(
        self, tokens: list[int], places: list[int], owners: list[Sequence[int]], quiet: slice | list[int]
    ) -> None:
        code = self._arrays.decode(self._llama, tokens, places, owners, quiet)
        if code:
            if self._recurrent and code != native.NO_ROOM:
                self._lose()
            raise native.failed(code)

    def _lose(self) -> None:
        """A decode failed in the middle. It may have moved the states of any sequence."""
        raise NotImplementedError

    def _read_piece(self, slot: int, tokens: Sequence[int]) -> None:
        """Append committed tokens. Where that fails, `cut` takes them back."""
        state = self._slot(slot)
        state.tokens += tokens
        state.prompted = True
        self._catch_up(state, self._tail)

    def _catch_up(self, state: Slot, tail: int = 0) -> None:
        """Read the committed tokens that the slot's memory lacks, but the last `tail`, in decodes of their own."""
        self._make_right(state)
        most = min(self._batch, SPACING) if self._recurrent else self._batch
        while (count := min(most, len(state.tokens) - tail - state.read)) > 0:
            end = state.read + count
            self._decode(
                state.tokens[state.read : end], list(range(state.read, end)), [(state.seq,)] * count, slice(count)
            )
            state.read, state.width = end, count
            if self._recurrent and state.read - state.saved.last >= SPACING:
                self._checkpoint(state)

    def _go_back(self, state: Slot) -> None:
        """Make the slot's memory hold its committed tokens and no more, or mark it as stale."""
        length = len(state.tokens)
        surplus = state.read - length
        if not length:
            # Removing all of a sequence works always, and mends it.
            _seq_rm(self._memory, state.seq, -1, -1)
            state.read, state.width, state.stale = 0, 0, False
        elif state.stale or surplus <= 0:
            return
        elif self._recurrent and not (self._snapshots and surplus < state.width and surplus <= self._snapshots):
            state.stale = True
        elif _seq_rm(self._memory, state.seq, length, -1):
            state.read, state.width = length, 0  # llama.cpp goes back once per decode
        else:
            raise ModelError(f"llama.cpp does not go back over {surplus} tokens, as it promised; please report this")

    def _make_right(self, state: Slot) -> None:
        """Give a stale slot the last state that is right. Tokens after it are to be read again."""
        while state.stale:
            checkpoint = state.checkpoint(len(state.tokens))
            if checkpoint is None:
                _seq_rm(self._memory, state.seq, -1, -1)
                state.read, state.width, state.stale = 0, 0, False
            elif native.restore_state(self._llama, state.seq, checkpoint.state, checkpoint.flags) and _seq_rm(
                # Where there are cells too, those of later tokens are still there.
                self._memory, state.seq, checkpoint.length, -1
            ):  # fmt: skip
                state.read, state.width, state.stale = checkpoint.length, 0, False
            elif checkpoint is state.before:
                state.before = None
            else:
                state.saved.drop(checkpoint)

    def _prepare(self, state: Slot) -> None:
        """Before rows are read: read what cannot ride along, and copy the state if the next turn may go on from it."""
        self._make_right(state)
        if len(state.tokens) - state.read > RIDERS or not self._recurrent:
            self._catch_up(state, self._tail if state.prompted else 0)
        gap = state.read - state.saved.last
        if self._recurrent and (gap >= SPACING or (state.prompted and gap >= self._gap)):
            self._checkpoint(state)
        state.prompted = False

    def _checkpoint(self, state: Slot) -> None:
        copy = native.save_state(self._llama, state.seq, native.PARTIAL)
        if copy is not None:
            state.saved.add(Checkpoint(state.read, copy, native.PARTIAL))

    def _copy(self, source: Slot, target: Slot) -> bool:
        """Copy all that llama.cpp holds of a slot to another, which is empty. Returns False if that cannot be done."""
        if self._windowed:
            # A saved state has no cells that are out of sight at its end. Before that end they are not. And where each
            # has cells of its own, a hybrid that was forked gives wrong logits (llama.cpp of llama-cpp-python 0.3.36).
            forked = not (self._apart and self._recurrent)
            if forked:
                _seq_cp(self._memory, source.seq, target.seq, -1, -1)
            return forked
        everything = native.save_state(self._llama, source.seq, 0)
        return everything is not None and native.restore_state(self._llama, target.seq, everything, 0)
