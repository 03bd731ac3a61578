"""GGUF models that verify chains: one sequence of llama.cpp per slot, and no tree.

Three kinds of models are served so. How a slot goes back over rows that are not kept is what tells them apart:

- Attention: cells are dropped. Asked for where each slot is to have a stream of cells of its own. These then lie in the
  order of the tokens, and nothing of other slots enters a row.
- Recurrent layers with snapshots (`n_rs_seq`): llama.cpp keeps the states after each of the last rows of a decode, and
  takes one of them for the newest. It goes back once, and never before the first row of that decode.
- Recurrent layers without: a copy of the state from before the rows is put back, and the rows that are kept are read
  again. A few such tokens ride along with the slot's next rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import llama_cpp

from duo.engines.base import ROOT, Chunk, Logits, Rollback, Row
from duo.engines.llamacpp import native
from duo.engines.llamacpp.checkpoints import Checkpoint
from duo.engines.llamacpp.passes import Pass, passes
from duo.engines.llamacpp.recurrent import CHECKPOINT_BYTES
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.slots import RIDERS, Slot, SlotRuntime
from duo.engines.options import EngineOptions
from duo.errors import ContextError

ON_GPU = "it runs on a GPU, where the order of sums follows the shape of a pass"
CPU_WASTE = 1.5
"""Padding rows are cheaper than reading the weights again, up to here. On a GPU they always are."""


class _Slot(Slot):
    """`rows`, `guesses`: ids and tokens of the live chain."""

    def __init__(self, seq: int, most_bytes: int) -> None:
        super().__init__(seq, most_bytes)
        self.rows: list[int] = []
        self.guesses: list[int] = []


class ChainEngine(SlotRuntime):
    """Implements `duo.engines.Engine`: rows of a slot are one chain, given in one `forward`."""

    def __init__(self, model: Model, options: EngineOptions) -> None:
        """Raises ModelError if memory or the number of sequences does not suffice."""
        slots = options.slots
        model.check_slots(slots, llama_cpp.llama_max_parallel_sequences() - 1)
        # Cells that are shared let any slots ride in one pass, and compute a row's attention over the cells of all.
        # Else only neighbours do. The same bits need that, and recurrent models cannot have those. A model without
        # cells divides its batches by neighbours in any case. With a sliding window llama.cpp gives away cells that
        # are out of sight and that only one sequence has.
        apart = slots > 1 and (model.windowed or not model.recurrent or not model.cells)
        self._capacity = max(1, options.tree_rows)
        self._batch = max(1, options.batch)
        self._gpu = options.gpu_layers != 0
        wanted = model.states.snapshots(options) if model.states else 0
        # Padding may lie past the context.
        per_slot = model.context + wanted + 1
        cells = slots * (-(-per_slot // 256) * 256)
        # llama.cpp splits no decode: there is room for what rides along and for padding as well.
        self._most = max(self._batch, slots, wanted + 1) + slots * (RIDERS + 1)
        context = native.make_context(
            model.path, model.handle, options, cells, self._most, slots, unified=not apart, snapshots=wanted
        )
        super().__init__(model, options, context, llama_cpp.llama_n_rs_seq(context), apart, self._most)
        self._replay = self._recurrent and not self._snapshots and options.draft_max > 0
        self._depth = self._capacity if not self._recurrent else self._snapshots or options.draft_max
        self._slots = [_Slot(slot, CHECKPOINT_BYTES // slots) for slot in range(slots)]

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def rollback(self) -> Rollback:
        return Rollback(trees=False, depth=self._depth, replay=self._replay)

    @property
    def mixes(self) -> bool:
        return False

    @property
    def inexact(self) -> str:
        """Why the bits of a row depend on more than widths (see `duo.engines.exact.decision`); empty if they do not."""
        if self._gpu:
            return ON_GPU
        return "it is recurrent, and its state has seen every row that ran" if self._recurrent else ""

    @property
    def unsteady(self) -> Collection[int]:
        """Widths of passes whose bits depend on the length of the context: flash attention divides a lone row's keys
        between threads from 512 on."""
        return (1,) if self.flash and native.threads(self.options) > 1 else ()

    @property
    def _state_note(self) -> str:
        if not self._recurrent:
            return ""
        if self._snapshots:
            states = len(self._slots) * (1 + self._snapshots)
            return (
                f"{self._name} is recurrent: it verifies chains of at most {self._depth} guesses, for which memory "
                f"holds {states} states of {self._state_mib:.1f} MiB"
            )
        if self._replay:
            return (
                f"{self._name} is recurrent, and llama.cpp cannot take its state back: a copy is made before guesses "
                "are verified, and after a wrong one what was right is read again"
            )
        return f"{self._name} is recurrent; it is served without guesses"

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        state = self._slot(slot)
        if len(tokens):
            self._check_tokens(tokens)
        self._forget_rows(slot)
        self._go_back(state)
        if len(tokens):
            self._check_length(len(state.tokens) + len(tokens))
            self._all_or_nothing([(slot, tokens)], {}, [])

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        width = len(rows) + sum(len(chunk.tokens) for chunk in chunks)
        if width > self._batch:
            raise ValueError(f"{width} rows are more than the batch of {self._batch}")
        live = {row for state in self._slots for row in state.rows}
        if len(live) + len(rows) > self._capacity:
            raise ContextError(f"{len(live) + len(rows)} rows do not fit: there is room for {self._capacity}")
        grown: dict[int, int] = {}
        for at, chunk in chunks:
            if self._slot(at).rows or at in grown:
                raise ValueError(f"slot {at} cannot take a piece: it has rows or another one")
            self._check_tokens(chunk)
            grown[at] = len(chunk)
        chains: dict[int, list[int]] = {}  # indices of a slot's rows
        for i, (row, at, token, above) in enumerate(rows):
            if row < 0 or row in live:
                raise ValueError(f"row {row} is negative or in use")
            live.add(row)
            self._check_tokens((token,))
            if self._slot(at).rows:
                raise ValueError(f"slot {at} has rows: keep some or none of them before it gets row {row}")
            chain = chains.setdefault(at, [])
            if above != (rows[chain[-1]].id if chain else ROOT):
                raise ValueError(f"row {row} of slot {at} hangs from {above}: this model takes one chain per slot")
            chain.append(i)
        for at in {*grown, *chains}:
            self._check_length(len(self._slots[at].tokens) + grown.get(at, 0) + len(chains.get(at, ())))
        if not width:
            return self._logits[:0]
        return self._all_or_nothing(chunks, chains, rows)

    def interrupt(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        state = self._slot(slot)
        for row, mine in zip(path, [*state.rows, *([None] * len(path))], strict=False):
            if row != mine:
                raise ValueError(f"row {row} does not continue the path in slot {slot}")
        if rest:
            raise ValueError(f"slot {slot} keeps no rows past its path: this model takes one chain per slot")
        dropped = len(state.rows) - len(path)
        if dropped > self._depth:
            raise ValueError(f"slot {slot} would drop {dropped} rows, and goes back over at most {self._depth}")
        state.tokens += state.guesses[: len(path)]
        self._forget_rows(slot)
        self._go_back(state)

    def _slot(self, slot: int) -> _Slot:
        if not 0 <= slot < len(self._slots):
            raise ValueError(f"there is no slot {slot}")
        return self._slots[slot]

    def _forget_rows(self, slot: int) -> None:
        state = self._slots[slot]
        state.rows, state.guesses = [], []

    def _lose(self) -> None:
        for state in self._slots:
            state.stale = True

    def _all_or_nothing(
        self, chunks: Sequence[tuple[int, Sequence[int]]], chains: Mapping[int, list[int]], rows: Sequence[Row]
    ) -> Logits:
        lengths = {at: len(self._slots[at].tokens) for at in {*(at for at, _ in chunks), *chains}}
        if self._stop is not None:
            self._stop.clear()
        try:
            # Pieces have decodes of their own. In one with rows llama.cpp would divide the two anyway, because they
            # are not equally long: the weights are read as often.
            for at, tokens in chunks:
                self._read_piece(at, tokens)
            logits = self._run(chains, rows)
        except BaseException:
            for at, length in lengths.items():
                self._slots[at].cut(length)
                self._go_back(self._slots[at])
            raise
        for at, chain in chains.items():
            self._slots[at].rows = [rows[i].id for i in chain]
            self._slots[at].guesses = [rows[i].token for i in chain]
        return logits

    def _run(self, chains: Mapping[int, list[int]], rows: Sequence[Row]) -> Logits:
        """Decode the chains, in as few parts as the model allows."""
        behind: dict[int, int] = {}  # committed tokens that ride along
        for at, chain in chains.items():
            state = self._slots[at]
            self._prepare(state)
            if self._replay and len(chain) > 1:
                self._save_before(state)
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
                committed = self._slots[at].tokens
                mine = [rows[i].token for i in chains[at]]
                padding = part.width - behind[at] - len(mine)
                quiet += range(len(tokens), len(tokens) + behind[at])
                tokens += committed[len(committed) - behind[at] :] + mine
                quiet += range(len(tokens), len(tokens) + padding)
                tokens += mine[-1:] * padding
                places += chains[at]
            self._decode_part(part, tokens, quiet)
            whole = len(places) == len(rows) and places == list(range(len(rows)))
            logits = self._take_logits(len(places), None if whole else places, len(rows))
        return logits

    def _decode_part(self, part: Pass, tokens: list[int], quiet: list[int]) -> None:
        """Decode as many tokens of each slot. It takes the snapshots of others from them where it may move those."""
        places: list[int] = []
        owners: list[Sequence[int]] = []
        for at in part.slots:
            read = self._slots[at].read
            places += range(read, read + part.width)
            owners += [(at,)] * part.width
        self._decode(tokens, places, owners, quiet)
        if len(part.slots) > 1:
            for state in self._slots:
                state.width = 0
        for at in part.slots:
            self._slots[at].read += part.width
            self._slots[at].width = part.width

    def _save_before(self, state: _Slot) -> None:
        """Copy the state that is put back if one of the next rows is not kept, unless there is such a copy."""
        known = state.checkpoint(state.read)
        if known is not None and known.length == state.read:
            return
        flags = native.PARTIAL | (native.ON_DEVICE if self._gpu else 0)
        copy = native.save_state(self._llama, state.seq, flags, state.before.state if state.before else None)
        state.before = Checkpoint(state.read, copy, flags) if copy is not None else None
