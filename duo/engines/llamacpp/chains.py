"""GGUF models that verify chains: one sequence of llama.cpp per slot, and no tree.

There are three kinds of them. They differ in how a slot goes back over rows that are not kept:

- Attention: cells are dropped. Used where each slot must have its own stream of cells. Cells then lie in the order of
  the tokens, and other slots do not enter a row.
- Recurrent layers with snapshots (`n_rs_seq`): llama.cpp keeps the states after each of the last rows of a decode, and
  takes one of them as the newest. It goes back once, and never before the first row of that decode.
- Recurrent layers without snapshots: a copy of the state from before the rows is put back, and the kept rows are read
  again. A few such tokens ride along with the slot's next rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import llama_cpp

from duo.engines import checks
from duo.engines.base import ROOT, Chunk, Logits, Rollback, Row
from duo.engines.llamacpp import native
from duo.engines.llamacpp.checkpoints import Checkpoint
from duo.engines.llamacpp.passes import Pass, passes
from duo.engines.llamacpp.recurrent import CHECKPOINT_BYTES
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.slots import MAX_RIDERS, Slot, SlotRuntime
from duo.engines.options import EngineOptions

ON_GPU = "it runs on a GPU, where the order of sums follows the shape of a pass"
MAX_PADDING_ON_CPU = 1.5
"""On a CPU a pass may be padded to this many times its rows. On a GPU padding is always cheaper than another pass."""


class Chain(Slot):
    """rows, guesses: ids and tokens of the live rows, which are one chain."""

    def __init__(self, seq: int, checkpoint_bytes: int) -> None:
        super().__init__(seq, checkpoint_bytes)
        self.rows: list[int] = []
        self.guesses: list[int] = []


class ChainEngine(SlotRuntime):
    """Implements `duo.engines.Engine`. The rows of a slot are one chain, given in one `forward`."""

    def __init__(self, model: Model, options: EngineOptions) -> None:
        """Raises ModelError if memory or the number of sequences does not suffice."""
        slots = options.slots
        model.check_slots(slots, llama_cpp.llama_max_parallel_sequences() - 1)
        # Shared cells let any slots ride in one pass, but a row's attention then runs over the cells of all slots.
        # The same bits need separate streams; recurrent models cannot give them. A model without cells divides its
        # batches by neighbours in any case. With a sliding window, llama.cpp takes away shared cells that are out of
        # sight and that only one sequence has.
        apart = slots > 1 and (model.windowed or not model.recurrent or not model.cells)
        capacity, batch = max(1, options.tree_rows), max(1, options.batch)
        self.on_gpu = options.gpu_layers != 0
        wanted = model.states.snapshots(options) if model.states else 0
        # Padding may lie past the context.
        per_slot = model.context + wanted + 1
        cells = slots * (-(-per_slot // 256) * 256)
        # llama.cpp must split no decode, so there is room for what rides along and for padding too.
        width = max(batch, slots, wanted + 1) + slots * (MAX_RIDERS + 1)
        context = native.make_context(
            model.path, model.handle, options, cells, width, slots, unified=not apart, snapshots=wanted
        )
        snapshots = llama_cpp.llama_n_rs_seq(context)
        super().__init__(model, options, context, batch, capacity, snapshots, apart, width)
        self._replay = model.recurrent and not snapshots and options.draft_max > 0
        depth = capacity if not model.recurrent else snapshots or options.draft_max
        self.rollback = Rollback(trees=False, depth=depth, replay=self._replay)
        self.chains = [Chain(slot, CHECKPOINT_BYTES // slots) for slot in range(slots)]

    @property
    def inexact(self) -> str:
        """Why the bits of a row depend on more than widths (see `duo.engines.exact`); empty if they do not."""
        if self.on_gpu:
            return ON_GPU
        return "it is recurrent, and its state has seen every row that ran" if self.recurrent else ""

    @property
    def unsteady(self) -> Collection[int]:
        """Widths of passes whose bits depend on the length of the context.

        Flash attention divides the keys of a lone row between threads, from 512 keys on.
        """
        return (1,) if self.flash and native.threads(self.options) > 1 else ()

    @property
    def _state_note(self) -> str:
        if not self.recurrent:
            return ""
        if self.snapshots:
            states = self.slots * (1 + self.snapshots)
            return (
                f"{self.name} is recurrent: it verifies chains of at most {self.rollback.depth} guesses, for which "
                f"memory holds {states} states of {self._state_mib:.1f} MiB"
            )
        if self._replay:
            return (
                f"{self.name} is recurrent, and llama.cpp cannot take its state back: a copy is made before guesses "
                "are verified, and after a wrong one what was right is read again"
            )
        return f"{self.name} is recurrent; it is served without guesses"

    def _read_alone(self, chunk: Chunk) -> None:
        self._all_or_nothing([chunk], {}, [])

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        width = checks.width_of(rows, chunks, self.batch)
        live = {row for chain in self.chains for row in chain.rows}
        checks.check_capacity(len(live) + len(rows), self.capacity)
        grown = self._check_chunks(chunks)
        checks.check_rows(rows, live, self.size)
        placed: dict[int, list[int]] = {}  # indices of each slot's rows
        for i, (row, slot, _, above, _) in enumerate(rows):
            if self._slot(slot).rows:
                raise ValueError(f"slot {slot} has rows: commit some or none of them before it gets row {row}")
            mine = placed.setdefault(slot, [])
            if above != (rows[mine[-1]].id if mine else ROOT):
                raise ValueError(f"row {row} of slot {slot} hangs from {above}: this model takes one chain per slot")
            mine.append(i)
        for slot, mine in placed.items():
            checks.check_context(len(self.chains[slot].tokens) + grown.get(slot, 0) + len(mine), self.context)
        if not width:
            return self._logits[:0]
        return self._all_or_nothing(chunks, placed, rows)

    def interrupt(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        chain = self._slot(slot)
        for row, mine in zip(path, [*chain.rows, *([None] * len(path))], strict=False):
            if row != mine:
                raise ValueError(f"row {row} does not continue the path in slot {slot}")
        if rest:
            raise ValueError(f"slot {slot} keeps no rows past its path: this model takes one chain per slot")
        dropped, depth = len(chain.rows) - len(path), self.rollback.depth
        if dropped > depth:
            raise ValueError(f"slot {slot} would drop {dropped} rows, and goes back over at most {depth}")
        chain.tokens += chain.guesses[: len(path)]
        self._forget_rows(slot)
        self._go_back(chain)

    def _slot(self, slot: int) -> Chain:
        return checks.at(self.chains, slot)

    def _forget_rows(self, slot: int) -> None:
        chain = self.chains[slot]
        chain.rows, chain.guesses = [], []

    def _lose(self) -> None:
        for chain in self.chains:
            chain.stale = True

    def _all_or_nothing(self, chunks: Sequence[Chunk], placed: Mapping[int, list[int]], rows: Sequence[Row]) -> Logits:
        """Read the chunks and run the rows. If that fails, all slots are as before."""
        lengths = {slot: len(self.chains[slot].tokens) for slot in {*(chunk.slot for chunk in chunks), *placed}}
        if self._stop is not None:
            self._stop.clear()
        try:
            # Chunks have their own decodes. llama.cpp would divide a decode with both anyway, because they are not
            # equally long: the weights are read as often.
            for slot, tokens, _ in chunks:
                self._read_chunk(slot, tokens)
            logits = self._run(placed, rows)
        except BaseException:
            for slot, length in lengths.items():
                self.chains[slot].cut(length)
                self._go_back(self.chains[slot])
            raise
        for slot, mine in placed.items():
            self.chains[slot].rows = [rows[i].id for i in mine]
            self.chains[slot].guesses = [rows[i].token for i in mine]
        return logits

    def _run(self, placed: Mapping[int, list[int]], rows: Sequence[Row]) -> Logits:
        """Decode the chains, in as few parts as the model allows."""
        riders: dict[int, int] = {}  # how many committed tokens of each slot ride along
        for slot, mine in placed.items():
            chain = self.chains[slot]
            self._prepare(chain)
            if self._replay and len(mine) > 1:
                self._save_before(chain)
            riders[slot] = len(chain.tokens) - chain.read
        logits = self._logits[:0]
        for part in passes(
            {slot: riders[slot] + len(mine) for slot, mine in placed.items()},
            self.neighbours,
            self.snapshots,
            max_rows=min(self._width, len(placed) * (1 + self.snapshots)) if self.snapshots else 0,
            max_padding=float(self._width) if self.on_gpu else MAX_PADDING_ON_CPU,
        ):
            tokens: list[int] = []
            quiet: list[int] = []
            places: list[int] = []
            for slot in part.slots:
                committed, riding = self.chains[slot].tokens, riders[slot]
                guesses = [rows[i].token for i in placed[slot]]
                padding = part.width - riding - len(guesses)
                quiet += range(len(tokens), len(tokens) + riding)
                tokens += committed[len(committed) - riding :] + guesses
                quiet += range(len(tokens), len(tokens) + padding)
                tokens += guesses[-1:] * padding
                places += placed[slot]
            self._decode_part(part, tokens, quiet)
            whole = len(places) == len(rows) and places == list(range(len(rows)))
            logits = self._take_logits(len(places), None if whole else places, len(rows))
        return logits

    def _decode_part(self, part: Pass, tokens: list[int], quiet: list[int]) -> None:
        """Decode `part.width` tokens of each slot."""
        places: list[int] = []
        owners: list[Sequence[int]] = []
        for slot in part.slots:
            read = self.chains[slot].read
            places += range(read, read + part.width)
            owners += [(slot,)] * part.width
        self._decode(tokens, places, owners, quiet)
        if len(part.slots) > 1:
            # llama.cpp may have moved the states of all slots, and their snapshots are left behind.
            for chain in self.chains:
                chain.undoable = 0
        for slot in part.slots:
            self.chains[slot].read += part.width
            self.chains[slot].undoable = part.width

    def _save_before(self, chain: Chain) -> None:
        """Copy the state, to put it back if one of the next rows is not kept. An earlier copy may do."""
        known = chain.checkpoint(chain.read)
        if known is not None and known.length == chain.read:
            return
        flags = native.PARTIAL | (native.ON_DEVICE if self.on_gpu else 0)
        copy = native.save_state(self.llama, chain.seq, flags, chain.before.state if chain.before else None)
        chain.before = Checkpoint(chain.read, copy, flags) if copy is not None else None
