"""GGUF models that verify chains: one sequence of llama.cpp per slot, and no tree.

Three kinds of models are served so. How a slot goes back over rows that are not kept is what tells them apart:

- Attention: cells are dropped. Asked for where each slot is to have a stream of cells of its own. These then lie in the
  order of the tokens, and nothing of other slots enters a row.
- Recurrent layers with snapshots (`n_rs_seq`): llama.cpp keeps the states after each of the last rows of a decode, and
  takes one of them for the newest. It goes back once, and never before the first row of that decode.
- Recurrent layers without: a copy of the state from before the decode is put back.

A slot's tokens are known here. So its memory need not be right at all times: where going back took more than the last
decode can give, the slot is `stale`. Before its next tokens a checkpoint is put back, and what lies between is read
again. A few such tokens ride along with the next rows. The same mends a slot after a decode that failed.

Aborting a decode of a recurrent model is not possible without harm: llama.cpp moves the states of other sequences in
the same graph. So such a decode always runs to its end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import llama_cpp

from duo.engines.base import ROOT, InterruptedForwardError, Logits, Piece, Rollback, Row
from duo.engines.llamacpp import native
from duo.engines.llamacpp.checkpoints import Checkpoint, Checkpoints
from duo.engines.llamacpp.passes import Pass, passes
from duo.engines.llamacpp.runtime import Model, Runtime
from duo.engines.options import EngineOptions
from duo.errors import ContextError, ModelError

SPACING = 512
"""Tokens between two checkpoints, and most tokens of a prompt in one decode of a recurrent model."""
CHECKPOINT_BYTES = 1 << 30
"""For the checkpoints of all slots together."""
SNAPSHOTS, SNAPSHOT_BYTES = 8, 1 << 31
"""Most snapshots per slot, and bytes for those of all slots together. A state of a 27B model takes 150 MiB."""
RIDERS = 8
"""Tokens that are read again beside a slot's next rows. More have a decode of their own, and a checkpoint after it."""
CPU_WASTE = 1.5
"""Padding rows are cheaper than reading the weights again, up to here. On a GPU they always are."""

_seq_rm = llama_cpp.llama_memory_seq_rm


class _Slot:
    """`tokens`: committed. `rows`, `guesses`: ids and tokens of the live chain. `read`: tokens and rows that the memory
    holds, padding included, unless it is `stale`. `width`: how many of them the last decode can take back, its first
    row included. `before`: the state before the last rows. `prompted`: whether a prompt was read since the last rows.
    """

    __slots__ = ("before", "guesses", "prompted", "read", "rows", "saved", "stale", "tokens", "width")

    def __init__(self, most_bytes: int) -> None:
        self.tokens: list[int] = []
        self.rows: list[int] = []
        self.guesses: list[int] = []
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


class ChainEngine(Runtime):
    """Implements `duo.engines.Engine`: rows of a slot are one chain, given in one `forward`."""

    def __init__(self, model: Model, options: EngineOptions) -> None:
        """Raises ModelError if memory or the number of sequences does not suffice."""
        slots = options.slots
        model.check_slots(slots, llama_cpp.llama_max_parallel_sequences() - 1)
        self._recurrent, self._cells = model.recurrent, model.cells
        # Neighbours only, or any slots: a shared cache lets any of them ride in one pass, and computes a row's
        # attention over the cells of all. A model without cells divides its batches by neighbours in any case.
        self._apart = slots > 1 and (options.chains or not model.recurrent or not model.cells)
        self._room = max(1, options.tree_rows)
        self._batch = max(1, options.batch)
        self._gpu = options.gpu_layers != 0 and llama_cpp.llama_supports_gpu_offload()
        wanted, self._state_bytes = snapshots(model, options) if model.recurrent else (0, 0)
        # Padding may lie past the context.
        per_slot = model.context(options) + wanted + 1
        cells = slots * (-(-per_slot // 256) * 256)
        # Each decode is one part: none is split. So there is room for what rides along and for padding as well.
        self._most = max(self._batch, slots, wanted + 1) + slots * (RIDERS + 1)
        context = native.make_context(
            model.path, model.handle, options, cells, self._most, slots, unified=not self._apart, snapshots=wanted
        )
        super().__init__(model, options, context)
        self._snapshots = llama_cpp.llama_n_rs_seq(context)
        self._replay = self._recurrent and not self._snapshots and options.draft_max > 0
        self._depth = self._room if not self._recurrent else self._snapshots or options.draft_max
        self._stop = native.Stop(context) if not self._recurrent else None
        self._arrays = native.Batch(self._most)
        self._slots = [_Slot(CHECKPOINT_BYTES // slots) for _ in range(slots)]

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def rollback(self) -> Rollback:
        return Rollback(trees=False, depth=self._depth, replay=self._replay)

    @property
    def note(self) -> str:
        if not self._recurrent:
            return ""
        if self._snapshots:
            states = len(self._slots) * (1 + self._snapshots)
            return (
                f"{self._name} is recurrent: it verifies chains of at most {self._depth} guesses, for which its memory "
                f"holds {states} states of {self._state_bytes / 2**20:.1f} MiB"
            )
        if self._replay:
            return (
                f"{self._name} is recurrent, and llama.cpp cannot take its state back: a copy is made before guesses "
                "are verified, and what was right is read again after a wrong one"
            )
        return f"{self._name} is recurrent; it is served without guesses"

    def length(self, slot: int) -> int:
        return len(self._at(slot).tokens)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        state, count = self._at(slot), len(tokens)
        if count and not 0 <= min(tokens) <= max(tokens) < self._size:
            raise ValueError(f"a token is not in the vocabulary of {self._size}")
        self._commit(state, slot, 0)
        if count:
            self._check_length(len(state.tokens) + count)
            self._all_or_nothing([(slot, tokens)], {}, [])

    def forward(self, rows: Sequence[Row], pieces: Sequence[Piece] = ()) -> Logits:
        width = len(rows) + sum(len(piece.tokens) for piece in pieces)
        if width > self._batch:
            raise ValueError(f"{width} rows are more than the batch of {self._batch}")
        live = {row for state in self._slots for row in state.rows}
        if len(live) + len(rows) > self._room:
            raise ContextError(f"{len(live) + len(rows)} rows do not fit: there is room for {self._room}")
        grown: dict[int, int] = {}
        for at, piece in pieces:
            state = self._at(at)
            if state.rows or at in grown:
                raise ValueError(f"slot {at} cannot take a piece: it has rows or another one")
            if not len(piece) or not 0 <= min(piece) <= max(piece) < self._size:
                raise ValueError(f"a piece is empty, or has a token that is not in the vocabulary of {self._size}")
            grown[at] = len(piece)
        chains: dict[int, list[int]] = {}  # which rows a slot has
        for i, (row, at, token, above) in enumerate(rows):
            if row < 0 or row in live:
                raise ValueError(f"row {row} is negative or in use")
            live.add(row)
            if not 0 <= token < self._size:
                raise ValueError(f"token {token} is not in the vocabulary of {self._size}")
            if self._at(at).rows:
                raise ValueError(f"slot {at} has rows: keep some or none of them before it gets a row {row}")
            chain = chains.setdefault(at, [])
            if above != (rows[chain[-1]].id if chain else ROOT):
                raise ValueError(f"row {row} of slot {at} hangs from {above}: this model takes one chain per slot")
            chain.append(i)
        for at in {*grown, *chains}:
            self._check_length(len(self._slots[at].tokens) + grown.get(at, 0) + len(chains.get(at, ())))
        if not width:
            return self._logits[:0]
        return self._all_or_nothing([(at, tokens) for at, tokens in pieces], chains, rows)

    def interrupt(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def keep(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        state = self._at(slot)
        for row, mine in zip(path, [*state.rows, *([-1] * len(path))], strict=False):
            if row != mine:
                raise ValueError(f"row {row} does not continue the path in slot {slot}")
        if rest:
            raise ValueError(f"slot {slot} keeps no rows past its path: this model takes one chain per slot")
        dropped = len(state.rows) - len(path)
        if dropped > self._depth:
            raise ValueError(f"slot {slot} would drop {dropped} rows, and goes back over at most {self._depth}")
        self._commit(state, slot, len(path))

    def restorable(self, slot: int, length: int) -> int:
        state = self._at(slot)
        if not self._recurrent or length >= len(state.tokens):
            return min(length, len(state.tokens))
        checkpoint = state.checkpoint(length)
        return checkpoint.length if checkpoint is not None else 0

    def truncate(self, slot: int, length: int) -> int:
        state = self._at(slot)
        if not 0 <= length <= len(state.tokens):
            raise ValueError(f"slot {slot} has {len(state.tokens)} tokens, it cannot be cut to {length}")
        left = self.restorable(slot, length)
        if left == len(state.tokens):
            self._commit(state, slot, 0)
            return left
        state.rows, state.guesses = [], []
        state.cut(left)
        self._go_back(state, slot)
        return left

    def share(self, source: int, target: int, length: int) -> int:
        giver, taker = self._at(source), self._at(target)
        if not 0 <= length <= len(giver.tokens):
            raise ValueError(f"slot {source} has {len(giver.tokens)} tokens, the first {length} cannot be shared")
        if giver is taker:
            return self.truncate(target, length)
        self.truncate(target, 0)
        length = self.restorable(source, length)
        if not length:
            return 0
        taker.tokens = giver.tokens[:length]
        if self._recurrent:
            self._save_if_clean(giver, source)
            for checkpoint in giver.saved:
                if checkpoint.length <= length:
                    taker.saved.add(checkpoint)
            before = giver.before
            if before and taker.saved.last < before.length <= length and not before.flags & native.ON_DEVICE:
                # The other's bytes are used again, so these are its own.
                taker.saved.add(Checkpoint(before.length, before.state.copy(), before.flags))
        taker.stale = self._recurrent
        if self._cells and not self._copy(source, target):
            taker.cut(0)
            self._go_back(taker, target)
            return 0
        taker.read = length
        if not self._recurrent:
            self._go_back(taker, target, force=True)
        return length

    # -- One pass ----------------------------------------------------------------------------------------------------

    def _all_or_nothing(
        self, pieces: Sequence[tuple[int, Sequence[int]]], chains: dict[int, list[int]], rows: Sequence[Row]
    ) -> Logits:
        lengths = {at: len(self._slots[at].tokens) for at in {*(at for at, _ in pieces), *chains}}
        if self._stop is not None:
            self._stop.clear()
        try:
            # Pieces have decodes of their own. In one with rows llama.cpp would divide the two anyway, because they
            # are not equally long: the weights are read as often, and rows wait no longer.
            for at, tokens in pieces:
                state = self._slots[at]
                state.tokens += tokens
                state.prompted = True
                self._catch_up(state, at)
            logits = self._run(chains, rows)
        except BaseException:
            for at, length in lengths.items():
                state = self._slots[at]
                state.rows, state.guesses = [], []
                state.cut(length)
                state.width = 0
                self._go_back(state, at, force=not self._recurrent)
            raise
        for at, chain in chains.items():
            state = self._slots[at]
            state.prompted = False
            state.rows = [rows[i].id for i in chain]
            state.guesses = [rows[i].token for i in chain]
        return logits

    def _run(self, chains: dict[int, list[int]], rows: Sequence[Row]) -> Logits:
        behind: dict[int, int] = {}
        for at, chain in chains.items():
            state = self._slots[at]
            self._make_right(state, at)
            if len(state.tokens) - state.read > RIDERS or not self._recurrent:
                self._catch_up(state, at)
            if self._recurrent:
                self._save(state, at, several=len(chain) > 1)
            behind[at] = len(state.tokens) - state.read
        logits = self._logits[:0]
        for part in passes(
            {at: behind[at] + len(chain) for at, chain in chains.items()},
            self._apart,
            self._snapshots,
            most=min(self._most, len(chains) * (1 + self._snapshots)) if self._snapshots else 0,
            waste=float(self._most) if self._gpu else CPU_WASTE,
        ):
            tokens: list[int] = []
            quiet: list[int] = []
            places: list[int] = []
            for at in part.slots:
                mine = [rows[i].token for i in chains[at]]
                quiet += range(len(tokens), len(tokens) + behind[at])
                tokens += self._slots[at].tokens[len(self._slots[at].tokens) - behind[at] :] + mine
                padding = part.width - behind[at] - len(mine)
                quiet += range(len(tokens), len(tokens) + padding)
                tokens += mine[-1:] * padding
                places += chains[at]
            self._decode(part, tokens, quiet)
            straight = len(places) == len(rows) and places == list(range(len(rows)))
            logits = self._take_logits(len(places), None if straight else places, len(rows))
        return logits

    def _decode(self, part: Pass, tokens: list[int], quiet: slice | list[int]) -> None:
        """One decode, of as many tokens of each slot. Slots whose states it may have moved are told so."""
        places: list[int] = []
        owners: list[Sequence[int]] = []
        for at in part.slots:
            read = self._slots[at].read
            places += range(read, read + part.width)
            owners += [(at,)] * part.width
        code = self._arrays.decode(self._llama, tokens, places, owners, quiet)
        if code:
            if self._recurrent and code != native.NO_ROOM:
                for at in range(len(self._slots)) if len(part.slots) > 1 else part.slots:
                    self._slots[at].stale = True
            raise InterruptedForwardError if code == native.ABORTED else native.failed(code)
        for at in part.slots:
            self._slots[at].read += part.width
        if len(part.slots) > 1:
            for state in self._slots:
                state.width = 0
        for at in part.slots:
            self._slots[at].width = part.width

    def _catch_up(self, state: _Slot, slot: int) -> None:
        """Read the committed tokens that the slot's memory lacks, in decodes of their own."""
        self._make_right(state, slot)
        most = min(self._batch, SPACING) if self._recurrent else self._batch
        while count := min(most, len(state.tokens) - state.read):
            self._decode(Pass([slot], count), state.tokens[state.read : state.read + count], slice(count))
            if self._recurrent and state.read - state.saved.last >= SPACING:
                self._add_checkpoint(state, slot)

    # -- Going back --------------------------------------------------------------------------------------------------

    def _commit(self, state: _Slot, slot: int, count: int) -> None:
        """Make the first `count` rows committed tokens, and forget the others."""
        state.tokens += state.guesses[:count]
        state.rows, state.guesses = [], []
        self._go_back(state, slot)

    def _go_back(self, state: _Slot, slot: int, force: bool = False) -> None:
        """Make the slot's memory hold its committed tokens and no more, or mark it as stale."""
        length = len(state.tokens)
        surplus = state.read - length
        if not length:
            # Removing all of a sequence works always, and mends it.
            _seq_rm(self._memory, slot, -1, -1)
            state.read, state.width, state.stale = 0, 0, False
        elif state.stale or (surplus <= 0 and not force):
            return
        elif self._recurrent and not (self._snapshots and surplus < state.width and surplus <= self._snapshots):
            state.stale = True
        elif _seq_rm(self._memory, slot, length, -1):
            state.read, state.width = length, 0  # llama.cpp goes back once per decode
        else:
            raise ModelError(f"llama.cpp does not go back over {surplus} tokens, as it promised; please report this")

    def _make_right(self, state: _Slot, slot: int) -> None:
        """Give a stale slot the last state that is right. Tokens after it are to be read again."""
        while state.stale:
            checkpoint = state.checkpoint(len(state.tokens))
            if checkpoint is None:
                _seq_rm(self._memory, slot, -1, -1)
                state.read, state.width, state.stale = 0, 0, False
            elif native.restore_state(self._llama, slot, checkpoint.state, checkpoint.flags) and _seq_rm(
                # Where there are cells too, those of later tokens are still there.
                self._memory, slot, checkpoint.length, -1
            ):  # fmt: skip
                state.read, state.width, state.stale = checkpoint.length, 0, False
            elif checkpoint is state.before:
                state.before = None
            else:
                state.saved.drop(checkpoint)

    def _save(self, state: _Slot, slot: int, several: bool) -> None:
        """Copy the state before rows are read, where a conversation or these rows may need to go back to it."""
        if state.read != len(state.tokens):
            return
        gap = state.read - state.saved.last
        if gap >= SPACING or (state.prompted and gap > 0):
            self._add_checkpoint(state, slot)
        known = state.checkpoint(state.read)
        if several and self._replay and (known is None or known.length < state.read):
            flags = native.PARTIAL | (native.ON_DEVICE if self._gpu else 0)
            used = state.before.state if state.before is not None else None
            copy = native.save_state(self._llama, slot, flags, used)
            state.before = Checkpoint(state.read, copy, flags) if copy is not None else None

    def _save_if_clean(self, state: _Slot, slot: int) -> None:
        if not state.stale and not state.rows and state.read == len(state.tokens) > state.saved.last:
            self._add_checkpoint(state, slot)

    def _add_checkpoint(self, state: _Slot, slot: int) -> None:
        copy = native.save_state(self._llama, slot, native.PARTIAL)
        if copy is not None:
            state.saved.add(Checkpoint(state.read, copy, native.PARTIAL))

    def _copy(self, source: int, target: int) -> bool:
        """Copy all that llama.cpp holds of a slot to another, which is empty."""
        everything = native.save_state(self._llama, source, 0)
        return everything is not None and native.restore_state(self._llama, target, everything, 0)

    def _at(self, slot: int) -> _Slot:
        if not 0 <= slot < len(self._slots):
            raise ValueError(f"there is no slot {slot}")
        return self._slots[slot]

    def _check_length(self, length: int) -> None:
        if length > self._context:
            raise ContextError(f"{length} tokens do not fit the context of {self._context}")


def snapshots(model: Model, options: EngineOptions) -> tuple[int, int]:
    """How many states of earlier rows to ask llama.cpp for, per slot, and the bytes of one.

    0 where the model cannot go back. What a state takes is known only once there is one: a small context is made.
    """
    if not options.draft_max:
        return 0, 0
    context = native.make_context(model.path, model.handle, options, 256, 16, 1, snapshots=1)
    try:
        if not llama_cpp.llama_n_rs_seq(context):
            return 0, 0
        code = native.Batch(1).decode(context, [0], [0], [(0,)], slice(1))
        if code:
            raise native.failed(code)
        size = llama_cpp.llama_state_seq_get_size_ext(context, 0, native.PARTIAL)
        fit = SNAPSHOT_BYTES // (options.slots * size) - 1
        return max(1, min(options.draft_max, SNAPSHOTS, fit)), size
    finally:
        llama_cpp.llama_free(context)
