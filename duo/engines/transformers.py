"""Any decoder-only model of the transformers library behind the Engine interface.

All slots and all uncommitted rows share one KV arena (see `_arena`). A forward pass is always one sequence as far as
the model can tell: batch dimension 1, the rows of all slots side by side, an explicit position for each, and an
additive mask [1, 1, rows, keys] that lets a row see its own slot's committed tokens, its ancestors and itself. Drafts,
several conversations and prefill are the same call; committing and forgetting rows copies nothing.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import huggingface_hub
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from duo.engines import EngineOptions, Progress
from duo.engines._arena import GROUPED, LANES, ArenaCache, PlaceBook, Places, Strip, round_up
from duo.engines._hf_vocabulary import HFVocabulary
from duo.engines._packed import pack
from duo.engines.base import ROOT, Logits, Row
from duo.errors import ContextError, ModelError

DEFAULT_CONTEXT = 4096
"""Tokens per slot, at most, unless more is asked for."""

PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose whole memory of the past is keys and values behind a mask."""

PADDING = 512
"""Keys that may be attended to in vain rather than call the attention once more."""

CHECK_TOKENS = 12
"""Length of the sequence that every model must get right through the arena before it is used."""

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-6}
"""Relative error of the logits in that check. Float32 gives 1e-6 and half precision some per cent, more where a mixture
of experts has a near tie; a model that sees the wrong tokens is far off."""

MaskForm = Literal["single", "by layer type"]


class _Slot:
    """One sequence: where its committed tokens lie, and which rows hang from it."""

    __slots__ = ("book", "length", "places", "position_of", "rows", "sight")

    def __init__(self, context: int, book: PlaceBook, hidden: float, windowed: bool) -> None:
        keys = round_up(book.capacity, book.step)
        self.book = book
        self.length = 0
        self.places: Places = np.zeros(context, dtype=np.int64)
        """Places of the committed tokens, in order; the first `length` count."""
        self.sight: NDArray[np.float32] = np.full(keys, hidden, dtype=np.float32)
        """The mask row that every row of the slot starts from: 0 at the committed tokens' places, hidden elsewhere."""
        self.position_of: Places = np.zeros(keys if windowed else 0, dtype=np.int64)
        """Position of what lies in a place; kept only for models with a sliding window."""
        self.rows: set[int] = set()


class _Node:
    """A live row."""

    __slots__ = ("index", "parent", "position", "slot", "trail")

    def __init__(self, slot: int, parent: int, position: int, index: int) -> None:
        self.slot = slot
        self.parent = parent
        self.position = position
        self.index = index
        """Which row of the forward pass that made it."""
        self.trail: list[int] = []
        """Places of its uncommitted ancestors, from the committed sequence downwards, and of itself, the last."""


class TransformersEngine:
    """A causal language model of the transformers library, run through the KV arena."""

    def __init__(self, model: str, options: EngineOptions, progress: Progress) -> None:
        progress(0.0)
        source, self._name = _locate(model)
        if options.slots < 1 or options.batch < 1 or options.tree_rows < 0 or options.context < 0:
            raise ModelError("slots and batch must be at least 1, tree_rows and context at least 0")
        if options.threads > 0:
            torch.set_num_threads(options.threads)
        self._device = _device(options.device)
        with _quiet():
            config = _read_config(source, self._name)
            text_config = config.get_text_config(decoder=True)
            self._window, forms = _attention(config, text_config, self._name)
            self._context = _context(text_config, options.context, self._name)
            progress(0.05)
            tokenizer = _read_tokenizer(source, self._name)
            progress(0.1)
            self._model = _read_weights(source, self._name, options.dtype, self._device)
        pack(self._model)
        progress(0.9)

        self._batch = options.batch
        self._dtype: torch.dtype = self._model.dtype
        # The most negative number instead of -inf: fused kernels work block by block, and in a block where all is
        # masked a maximum of -inf would give nan.
        self._hidden = float(torch.finfo(self._dtype).min)
        self._capacity = self._context + options.tree_rows
        # On a CPU every masked key costs, accelerators want aligned and recurring shapes more.
        self._step = 16 if self._device.type == "cpu" else 64
        self._cache = ArenaCache(round_up(self._capacity, self._step), options.slots)
        self._slots = [self._empty() for _ in range(options.slots)]
        self._by_lanes = True
        """Whether the model's attention knows lanes; else those of a forward pass are put side by side for it."""
        self._nodes: dict[int, _Node] = {}
        # What a forward pass takes in, written here and shown to torch without a copy.
        self._numbers = np.zeros(4 * self._batch, dtype=np.int64)
        self._numbers_tensor = torch.from_numpy(self._numbers)
        self._mask = np.zeros(0, dtype=np.float32)
        self._windowed_mask = np.zeros(0, dtype=np.float32)

        self._form: MaskForm = forms[0]
        self._size = 0
        heads = getattr(text_config, "num_attention_heads", None)
        shared_keys = getattr(text_config, "num_key_value_heads", heads) != heads
        self._prove(forms, shared_keys, str(config.model_type))
        self._vocabulary = HFVocabulary(tokenizer, self._size, _eos(self._model, tokenizer))
        progress(1.0)

    @property
    def name(self) -> str:
        return self._name

    @property
    def runtime(self) -> str:
        return "transformers"

    @property
    def vocabulary(self) -> HFVocabulary:
        return self._vocabulary

    @property
    def context(self) -> int:
        return self._context

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def batch(self) -> int:
        return self._batch

    @property
    def places_used(self) -> int:
        """Places of the arena that hold committed tokens or live rows, over all slots."""
        return sum(seat.book.used for seat in self._slots)

    def length(self, slot: int) -> int:
        return self._slot(slot).length

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        seat = self._slot(slot)
        ids = np.asarray(tokens, dtype=np.int64)
        count = len(ids)
        if count and (int(ids.min()) < 0 or int(ids.max()) >= self._size):
            raise ValueError(f"a token is not in 0..{self._size - 1}")
        self._forget(seat)
        if seat.length + count > self._context:
            raise ContextError(
                f"{seat.length + count} tokens do not fit the context of {self._context}: shorten the conversation"
            )
        for begin in range(0, count, self._batch):
            self._prefill(slot, ids[begin : begin + self._batch])

    def forward(self, rows: Sequence[Row]) -> Logits:
        width = len(rows)
        if not width:
            return np.zeros((0, self._size), dtype=np.float32)
        if width > self._batch:
            raise ValueError(f"{width} rows in one forward pass, at most {self._batch} are allowed")
        fresh = self._admit(rows)
        slots = {row.slot for row in rows}
        if len(slots) == 1:
            logits = self._forward_one(slots.pop(), [row.token for row in rows], fresh)
        else:
            logits = self._forward_many(sorted(slots), [row.token for row in rows], fresh)
        self._nodes.update(fresh)
        for id, node in fresh.items():
            self._slots[node.slot].rows.add(id)
        return logits

    def _forward_one(self, slot: int, tokens: Sequence[int], fresh: dict[int, _Node]) -> Logits:
        seat = self._slots[slot]
        places = seat.book.take(len(tokens))
        try:
            keys = seat.book.keys
            mask, _ = self._buffers(len(tokens), keys)
            for node, place, row in zip(fresh.values(), places.tolist(), mask, strict=True):
                parent = node.parent
                if parent == ROOT:
                    row[:] = seat.sight[:keys]
                    node.trail = [place]
                elif (above := fresh.get(parent)) is not None:
                    row[:] = mask[above.index]
                    node.trail = [*above.trail, place]
                else:
                    above = self._nodes[parent]
                    row[:] = seat.sight[:keys]
                    row[above.trail] = 0.0
                    node.trail = [*above.trail, place]
                row[place] = 0.0
            return self._run(slot, tokens, [node.position for node in fresh.values()], places, mask)
        except BaseException:
            seat.book.give(places)
            raise

    def _forward_many(self, slots: Sequence[int], tokens: Sequence[int], fresh: dict[int, _Node]) -> Logits:
        """Rows of several slots in one pass."""
        of: dict[int, list[_Node]] = {slot: [] for slot in slots}
        for node in fresh.values():
            of[node.slot].append(node)
        taken: dict[int, Places] = {}
        try:
            for slot, nodes in of.items():
                taken[slot] = self._slots[slot].book.take(len(nodes))
                for node, place in zip(nodes, taken[slot].tolist(), strict=True):
                    above = None if node.parent == ROOT else fresh.get(node.parent) or self._nodes[node.parent]
                    node.trail = [*(above.trail if above is not None else ()), place]
            places = np.array([node.trail[-1] for node in fresh.values()])
            return self._run_many(of, tokens, [node.position for node in fresh.values()], places)
        except BaseException:
            for slot, given in taken.items():
                self._slots[slot].book.give(given)
            raise

    def interrupt(self) -> None:
        self._cache.interrupted = True

    def keep(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        seat, nodes = self._slot(slot), self._nodes
        end = ROOT
        for id in path:
            if id not in seat.rows or nodes[id].parent != end:
                raise ValueError(f"row {id} does not continue the path in slot {slot}")
            end = id
        staying = frozenset(rest)
        for id in staying:
            if id not in seat.rows or not (nodes[id].parent == end or nodes[id].parent in staying):
                raise ValueError(f"row {id} does not hang from the end of the path in slot {slot}")
        taken = [nodes[id].trail[-1] for id in path]
        if taken:
            length = seat.length + len(taken)
            seat.places[seat.length : length] = taken
            seat.sight[taken] = 0.0
            seat.length = length
        gone = seat.rows.difference(staying, path)
        seat.book.give([nodes[id].trail[-1] for id in gone])
        for id in gone:
            del nodes[id]
        for id in path:
            del nodes[id]
        for id in staying:
            node = nodes[id]
            del node.trail[: len(taken)]
            if node.parent == end:
                node.parent = ROOT
        seat.rows = set(staying)

    def truncate(self, slot: int, length: int) -> None:
        seat = self._slot(slot)
        if not 0 <= length <= seat.length:
            raise ValueError(f"cannot cut {seat.length} committed tokens to {length}")
        self._forget(seat)
        gone = seat.places[length : seat.length]
        seat.sight[gone] = self._hidden
        seat.book.give(gone)
        seat.length = length

    def share(self, source: int, target: int, length: int) -> None:
        giver, taker = self._slot(source), self._slot(target)
        if giver is taker or not 0 <= length <= giver.length:
            raise ValueError(f"slot {target} cannot have {length} tokens of slot {source}")
        self.truncate(target, 0)
        if not length:
            return
        # A copy of the keys and values: computing them takes hundreds of times as long.
        places, from_places = taker.book.take(length), giver.places[:length]
        with torch.inference_mode():
            self._cache.copy(source, torch.from_numpy(from_places).to(self._device), target)
        taker.places[:length] = places
        taker.sight[places] = 0.0
        if self._window:
            taker.position_of[places] = np.arange(length)
        taker.length = length

    def close(self) -> None:
        self._model = None
        self._cache.layers.clear()
        self._slots, self._nodes = [], {}
        self._mask = self._windowed_mask = np.zeros(0, dtype=np.float32)
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _slot(self, slot: int) -> _Slot:
        if not 0 <= slot < len(self._slots):
            raise ValueError(f"slot {slot} is not in 0..{len(self._slots) - 1}")
        return self._slots[slot]

    def _forget(self, seat: _Slot) -> None:
        """Drop all uncommitted rows of the slot."""
        if seat.rows:
            seat.book.give([self._nodes.pop(id).trail[-1] for id in seat.rows])
            seat.rows = set()

    def _admit(self, rows: Sequence[Row]) -> dict[int, _Node]:
        """Check the rows and give each its position; nothing of the engine changes yet."""
        live, size, context = self._nodes, self._size, self._context
        fresh: dict[int, _Node] = {}
        for index, (id, slot, token, parent) in enumerate(rows):
            if id < 0 or id in live or id in fresh:
                raise ValueError(f"row id {id} is negative or already in use")
            if not 0 <= token < size:
                raise ValueError(f"token {token} is not in 0..{size - 1}")
            if parent == ROOT:
                position = self._slot(slot).length
            else:
                above = fresh.get(parent) or live.get(parent)
                if above is None or above.slot != slot:
                    raise ValueError(f"row {id}: parent {parent} is not a live row of slot {slot}")
                position = above.position + 1
            if position >= context:
                raise ContextError(f"position {position} is beyond the context of {context} tokens")
            fresh[id] = _Node(slot, parent, position, index)
        return fresh

    def _empty(self) -> _Slot:
        return _Slot(self._context, PlaceBook(self._capacity, self._step), self._hidden, bool(self._window))

    def _prefill(self, slot: int, ids: Places) -> None:
        """Append one batch of committed tokens: a chain, whose mask is the slot's own plus a triangle."""
        seat, width = self._slots[slot], len(ids)
        places = seat.book.take(width)
        try:
            keys = seat.book.keys
            mask, _ = self._buffers(width, keys)
            mask[:] = seat.sight[:keys]
            mask[:, places] = np.triu(np.full((width, width), self._hidden, dtype=np.float32), 1)
            positions = np.arange(seat.length, seat.length + width)
            self._run(slot, ids, positions, places, mask, logits=False)
        except BaseException:
            seat.book.give(places)
            raise
        seat.places[seat.length : seat.length + width] = places
        seat.sight[places] = 0.0
        seat.length += width

    def _buffers(self, width: int, keys: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Uninitialised memory for the mask and, where the model has windows, the windowed mask: [width, keys] each."""
        size = width * keys
        if self._mask.size < size:
            # Twice as much for the small masks of decoding, which grow a little every few tokens; not for a prefill's.
            room = max(size, min(2 * size, 1 << 20))
            self._mask = np.empty(room, dtype=np.float32)
            self._windowed_mask = np.empty(room if self._window else 0, dtype=np.float32)
        mask = self._mask[:size].reshape(width, keys)
        return mask, self._windowed_mask[:size].reshape(width, keys) if self._window else mask

    def _run(
        self,
        slot: int,
        ids: Sequence[int] | Places,
        positions: Sequence[int] | Places,
        places: Places,
        mask: NDArray[np.float32],
        logits: bool = True,
    ) -> Logits:
        """One forward pass over rows that lie in rising `places` of a slot; logits [rows, size], or [0, 0] if none are
        wanted."""
        width, keys = mask.shape
        numbers = self._numbers[: 3 * width].reshape(3, width)
        numbers[0], numbers[1], numbers[2] = ids, positions, places
        with torch.inference_mode():
            input_ids, position_ids, where = self._shown(3, width)
            full = self._tensor(mask)
            attention_mask: Any = full
            if self._window:
                windowed = self._windowed(self._slots[slot], mask, numbers[1], places)
                attention_mask = self._formed(full, full if windowed is mask else self._tensor(windowed))
            start = int(places[0]) if int(places[-1]) - int(places[0]) == width - 1 else -1
            self._cache.aim(slot, where[0], start, keys)
            return self._through(input_ids, position_ids, attention_mask, logits)

    def _run_many(
        self, of: Mapping[int, Sequence[_Node]], tokens: Sequence[int], positions: Sequence[int], places: Places
    ) -> Logits:
        """One forward pass over rows of several slots, whose nodes are `of` these, in rising order of slots."""
        width = len(tokens)
        numbers = self._numbers[: 4 * width].reshape(4, width)
        numbers[0], numbers[1], numbers[2] = tokens, positions, places
        for slot, nodes in of.items():
            numbers[3, [node.index for node in nodes]] = slot
        longest = max(self._slots[slot].book.keys for slot in of)
        with torch.inference_mode():
            input_ids, position_ids, where, lanes = self._shown(4, width)
            if self._by_lanes:
                full, sliding = self._strips(of)
                self._cache.aim_at_many(lanes[0], where[0], of.keys(), longest)
            else:
                beside = [(slot, self._slots[slot].book.keys) for slot in of]
                full, sliding = self._flat(of, width, beside)
                self._cache.aim_at_many(lanes[0], where[0], of.keys(), longest, beside)
            return self._through(input_ids, position_ids, self._formed(full, sliding) if self._window else full, True)

    def _shown(self, kinds: int, width: int) -> Sequence[torch.Tensor]:
        """The numbers of a forward pass as the model takes them, [1, width] of each kind."""
        return self._numbers_tensor[: kinds * width].view(kinds, 1, width).to(self._device).unbind(0)

    def _formed(self, full: torch.Tensor, sliding: torch.Tensor) -> Any:
        """The masks of a model with sliding windows, in the form that it takes them in."""
        if self._form == "by layer type":
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding

    def _through(self, input_ids: torch.Tensor, position_ids: torch.Tensor, mask: Any, logits: bool) -> Logits:
        # The base model stops before the projection to the vocabulary, which prefill has no use for.
        module = self._model if logits else self._model.base_model
        output = module(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        if not logits:
            return np.zeros((0, 0), dtype=np.float32)
        result: Logits = output.logits[0].to(device="cpu", dtype=torch.float32).numpy()
        return result

    def _strips(self, of: Mapping[int, Sequence[_Node]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stand-ins for the full and the windowed mask, which carry the strips for `_arena.grouped_attention`."""
        full: list[Strip] = []
        windowed: list[Strip] = []
        even = all(len(nodes) == 1 for nodes in of.values())
        for slots in self._neighbours(of):
            height = max(len(of[slot]) for slot in slots)
            keys = max(self._slots[slot].book.keys for slot in slots)
            mask = np.full((len(slots), 1, height, keys), self._hidden, dtype=np.float32)
            narrow = mask.copy() if self._window else mask
            for lane, slot in enumerate(slots):
                for line, node in enumerate(of[slot]):
                    self._see(self._slots[slot], node, mask[lane, 0, line], narrow[lane, 0, line])
            nodes = [node for slot in slots for node in of[slot]]
            # One row for each lane, in the order of the lanes, needs no sorting.
            whole = even and len(slots) == len(of) and all(node.index == at for at, node in enumerate(nodes))
            rows, lanes, lines = self._places_in(slots, of)
            for into, one in ((full, mask), (windowed, narrow)):
                tensor = torch.from_numpy(one).to(device=self._device, dtype=self._dtype)
                into.append(Strip(slots[0], None if whole else rows, lanes, lines, tensor))
        stands_in: list[torch.Tensor] = []
        width = sum(map(len, of.values()))
        for strips in (full, windowed):
            stand_in = torch.zeros((1, 1, width, 1), device=self._device, dtype=self._dtype)
            setattr(stand_in, LANES, strips)
            stands_in.append(stand_in)
        return stands_in[0], stands_in[1]

    def _places_in(
        self, slots: Sequence[int], of: Mapping[int, Sequence[_Node]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For each row of these slots: which row of the pass it is, its lane and its line in the strip."""
        triples = [(node.index, lane, line) for lane, slot in enumerate(slots) for line, node in enumerate(of[slot])]
        rows, lanes, lines = torch.tensor(triples, device=self._device).unbind(1)
        return rows, lanes, lines

    def _neighbours(self, of: Mapping[int, Sequence[_Node]]) -> list[list[int]]:
        """The slots, cut where they do not follow one another, and where a call of its own costs less than attending
        to as many keys as a longer one has."""
        strips: list[list[int]] = []
        most = total = 0
        for slot in of:
            keys = self._slots[slot].book.keys
            longest, apart = max(most, keys), total + keys + PADDING
            if strips and slot == strips[-1][-1] + 1 and longest * (len(strips[-1]) + 1) <= apart:
                strips[-1].append(slot)
                most, total = longest, total + keys
            else:
                strips.append([slot])
                most = total = keys
        return strips

    def _flat(
        self, of: Mapping[int, Sequence[_Node]], width: int, beside: Sequence[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The full and the windowed mask [1, 1, rows, keys of all slots side by side]."""
        mask = np.full((width, sum(count for _, count in beside)), self._hidden, dtype=np.float32)
        narrow = mask.copy() if self._window else mask
        start = 0
        for slot, count in beside:
            for node in of[slot]:
                own = slice(start, start + count)
                self._see(self._slots[slot], node, mask[node.index, own], narrow[node.index, own])
            start += count
        return self._tensor(mask), self._tensor(narrow)

    def _see(self, seat: _Slot, node: _Node, row: NDArray[np.float32], narrow: NDArray[np.float32]) -> None:
        """Write into the node's row of the mask, and of the windowed one, what it sees."""
        keys = len(row)
        row[:] = seat.sight[:keys]
        row[node.trail] = 0.0
        if self._window:
            seat.position_of[node.trail[-1]] = node.position
            narrow[:] = row
            narrow[seat.position_of[:keys] <= node.position - self._window] = self._hidden

    def _windowed(
        self, seat: _Slot, mask: NDArray[np.float32], positions: Places, places: Places
    ) -> NDArray[np.float32]:
        """The mask with keys at or before position - window hidden too; the mask itself where that changes nothing."""
        keys = mask.shape[1]
        seat.position_of[places] = positions
        horizon = positions - self._window
        if int(horizon.max()) < 0:
            return mask
        _, windowed = self._buffers(*mask.shape)
        windowed[:] = mask
        windowed[seat.position_of[:keys] <= horizon[:, None]] = self._hidden
        return windowed

    def _tensor(self, mask: NDArray[np.float32]) -> torch.Tensor:
        """The mask as the model wants it, [1, 1, rows, keys]."""
        return torch.from_numpy(mask)[None, None].to(device=self._device, dtype=self._dtype)

    def _prove(self, forms: Sequence[MaskForm], shared_keys: bool, kind: str) -> None:
        """Find the attention and the form of mask that suit the model, by comparing the arena's logits with its own.

        Whether a model's code takes positions and a mask from outside is nowhere declared, and one that ignores them
        raises no error: its text would just be wrong. So a short sequence must give the same logits both ways, through
        the arena in pieces and with a row in its midst that must not be seen; and where there are several slots, two
        sequences in one forward pass as well. Sets the number of logits per row.
        """
        embeddings = int(self._model.get_input_embeddings().num_embeddings)
        ids = [(3 + 5 * index) % embeddings for index in range(min(CHECK_TOKENS, self._context))]
        own = self._model.config._attn_implementation
        several = len(self._slots) > 1
        attentions = [GROUPED, own] if own == "sdpa" and (shared_keys or several) else [own]
        failure, tolerance = "", TOLERANCE.get(self._dtype, 0.25)
        with _quiet(), torch.inference_mode():
            try:
                wanted = self._plain(ids)
                other = self._plain(ids[::-1]) if several else wanted
            except Exception as fault:  # from code that is not ours
                raise ModelError(f"{self._name} ({kind}) does not run: {_line(fault)}") from fault
            self._size = wanted.shape[1]
            for attention, form in product(attentions, forms):
                self._form = form
                self._cache.layers.clear()
                try:
                    if self._model.config._attn_implementation != attention:
                        self._model.set_attn_implementation(attention)
                    error = self._compare(ids, wanted)
                    if several and error <= tolerance:
                        error = self._compare_two(ids, wanted, other, attention == GROUPED)
                except Exception as fault:  # whatever a model's code makes of a mask or a cache it does not know
                    failure = _line(fault)
                    continue
                if error <= tolerance:
                    return
                failure = f"its logits are off by {error:.1e}"
        raise ModelError(
            f"{self._name}: the transformers engine cannot run models of type {kind}, which do not take an attention "
            f"mask as plain decoders do ({failure}): use another model or a GGUF of this one"
        )

    def _plain(self, ids: list[int]) -> Logits:
        """What the model gives by itself, [len(ids), size]."""
        reference = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False)
        logits: Logits = reference.logits[0].float().cpu().numpy()
        return logits

    def _compare(self, ids: list[int], wanted: Logits) -> float:
        """The relative error of the arena's logits, where a plain forward pass over `ids` gives `wanted`."""
        half, length = len(ids) // 2, len(ids)
        with self._emptied():
            self.extend(0, ids[:half])
            if self._capacity > length:
                self.forward([Row(length, 0, ids[-1])])  # in the arena, but not to be seen by the rows below
            got: list[Logits] = []
            for begin in range(half, length, self._batch):
                piece = range(begin, min(begin + self._batch, length))
                got.extend(self.forward([Row(at, 0, ids[at], at - 1 if at > half else ROOT) for at in piece]))
        return _error(np.stack(got), wanted[half:])

    def _compare_two(self, ids: list[int], wanted: Logits, other: Logits, knows_lanes: bool) -> float:
        """The same for two slots in one forward pass, where the other one holds `ids` from back to front, which gives
        `other`. Finds out whether the model's attention may be given lanes, if it is said to know them."""
        half, length = len(ids) // 2, len(ids)
        most = min(length, half + self._batch - 1)
        failure = ModelError(f"{self._name} cannot run two sequences at once: start it with --parallel 1")
        for self._by_lanes in (True, False) if knows_lanes else (False,):
            with contextlib.suppress(NotImplementedError), self._emptied():
                self.extend(0, ids[:half])
                self.extend(1, ids[::-1][: half + 1])
                rows = [Row(at, 0, ids[at], at - 1 if at > half else ROOT) for at in range(half, most)]
                got = self.forward([Row(length, 1, ids[::-1][half + 1]), *rows])
                error = _error(got, np.concatenate((other[half + 1 : half + 2], wanted[half:most])))
                if error <= TOLERANCE.get(self._dtype, 0.25) or not self._by_lanes:
                    return error
        raise failure

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        """Leave all slots empty, whatever happens."""
        try:
            yield
        finally:
            self._nodes.clear()
            self._slots = [self._empty() for _ in self._slots]


def _error(got: Logits, expected: Logits) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected - expected.mean()))


def _locate(model: str) -> tuple[str, str]:
    """What to hand to from_pretrained, and the model's name. What looks like a path is never looked up on the hub."""
    path = Path(model).expanduser()
    if not model.strip():
        raise ModelError("no model is named: give a local directory or a hub id")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{model} holds no config.json: give the directory of a model in the Hugging Face layout")
        if not any(path.glob("*.safetensors")):
            raise ModelError(
                f"{model} holds no .safetensors weights (pickled ones can run code and are not read): convert them"
            )
        return str(path), path.resolve().name
    if path.exists():
        raise ModelError(f"{model} is a file: give the directory that it lies in, or a .gguf file")
    if model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise ModelError(f"there is no directory {model!r}: check the path")
    return model, model


def _read_config(source: str, name: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a file or a network of someone else's
        if Path(source).is_dir():
            raise ModelError(f"cannot read {name}'s config.json: {_line(error)}") from error
        raise ModelError(
            f"{name} is neither a local directory nor a model that the Hugging Face hub gives out: {_line(error)}"
        ) from error
    if config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder model ({config.model_type}): use a decoder-only one")
    return config


def _attention(config: Any, text_config: Any, name: str) -> tuple[int, tuple[MaskForm, ...]]:
    """The sliding window in tokens (0: none), and the forms of mask to try. Refuses what a mask cannot express."""
    layer_types = getattr(text_config, "layer_types", None)
    window = int(getattr(text_config, "sliding_window", None) or 0)
    strange = set(layer_types or ()) - PLAIN_LAYERS
    if getattr(text_config, "attention_chunk_size", None) and layer_types is None:
        strange = {"chunked_attention"}
    if "local" in (getattr(text_config, "attention_layers", None) or ()):
        strange = {"local attention"}
    if strange:
        raise ModelError(
            f"{name} ({config.model_type}) has layers of kind {', '.join(sorted(strange))}, not only attention over "
            "all or the latest tokens: the transformers engine cannot branch them, use another model"
        )
    if getattr(text_config, "alibi", False):
        raise ModelError(
            f"{name} ({config.model_type}) uses ALiBi, which knows no explicit positions: use another model"
        )
    if layer_types is None:
        return window, ("single",)
    if "sliding_attention" not in layer_types:
        return 0, ("single",)
    if not window:
        raise ModelError(f"{name}'s config.json names sliding layers but no sliding_window: mend it")
    if "full_attention" in layer_types:
        return window, ("by layer type",)
    return window, ("by layer type", "single")


def _context(text_config: Any, asked: int, name: str) -> int:
    own = getattr(text_config, "max_position_embeddings", None)
    # Rotary embeddings of this type switch to other factors for the whole batch once any position of it is beyond the
    # original length, so that a row's logits would depend on its neighbours. Below that length they do not.
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        own = rope.get("original_max_position_embeddings") or own
    if not own or own < 0:
        return asked or DEFAULT_CONTEXT
    if asked > own:
        raise ModelError(f"a context of {asked} tokens is more than the {own} that {name} was made for: ask for less")
    return asked or min(int(own), DEFAULT_CONTEXT)


def _read_tokenizer(source: str, name: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a file or a network of someone else's
        raise ModelError(
            f"{name} has no usable tokenizer, put its tokenizer.json beside its config.json: {_line(error)}"
        ) from error
    if not tokenizer.get_vocab():
        raise ModelError(f"{name}'s tokenizer is empty: put its tokenizer.json beside its config.json")
    return tokenizer


def _read_weights(source: str, name: str, dtype: str, device: torch.device) -> Any:
    """The model, ready to run on the device."""
    wanted: Any = dtype
    if dtype == "auto":
        wanted = torch.float32 if device.type == "cpu" else "auto"
    else:
        wanted = getattr(torch, dtype, None)
        if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
            raise ModelError(f"there is no dtype {dtype!r}: use auto, float32, bfloat16 or float16")
    try:
        loader: Any = AutoModelForCausalLM
        model, report = loader.from_pretrained(
            source,
            dtype=wanted,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            # Only so that the report below names them instead of a table on the terminal.
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # a file or a network of someone else's
        if isinstance(error, ValueError) and "Unrecognized configuration class" in str(error):
            raise ModelError(
                f"{name} is not a language model that predicts the next token: use another model"
            ) from error
        raise ModelError(f"cannot load {name}'s weights (safetensors): {_line(error)}") from error
    if mismatched := sorted(report["mismatched_keys"]):
        tensor = mismatched[0][0] if isinstance(mismatched[0], tuple) else mismatched[0]
        raise ModelError(f"{name}'s weights do not fit its config.json, first {tensor}: get both from one place")
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{name}'s weights lack {len(missing)} of the model's tensors, first {missing[0]}: get the whole model"
        )
    try:
        return model.to(device).eval()
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(f"cannot move {name} to {device}: {_line(error)}") from error


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.device(wanted)
    except RuntimeError as error:
        raise ModelError(f"there is no device {wanted!r}: use auto, cpu, cuda, cuda:N or mps") from error


def _eos(model: Any, tokenizer: Any) -> frozenset[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    tokens = [] if own is None else own if isinstance(own, list | tuple) else [own]
    if tokenizer.eos_token_id is not None:
        tokens = [*tokens, tokenizer.eos_token_id]
    return frozenset(int(token) for token in tokens)


def _line(error: BaseException) -> str:
    """The first line of an error's message, short enough for a terminal."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return shorten(text, 200, placeholder="...")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, log lines and warnings off the terminal for a while."""
    log: Any = transformers.utils.logging
    bars: Any = huggingface_hub.utils
    hub = logging.getLogger("huggingface_hub")
    verbosity, hub_level = log.get_verbosity(), hub.level
    loading_bars, download_bars = log.is_progress_bar_enabled(), not bars.are_progress_bars_disabled()
    log.set_verbosity(log.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    log.disable_progress_bar()
    bars.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if loading_bars:
            log.enable_progress_bar()
        if download_bars:
            bars.enable_progress_bars()
