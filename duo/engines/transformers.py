"""Any decoder-only model of the transformers library behind the Engine interface.

Committed tokens and uncommitted rows lie in a KV arena (see `_arena`). A forward pass is always one sequence as far as
the model can tell: batch dimension 1, the rows of all slots side by side, an explicit position for each, and an
additive mask [1, 1, rows, keys] that lets a row see its own slot's committed tokens, its ancestors and itself. Drafts,
several conversations and prefill are the same call; committing and forgetting rows copies nothing. Where each slot has
a lane of the arena to itself, rows of several slots have a mask for each lane.
"""

from __future__ import annotations

import gc
import inspect
import logging
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
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
from duo.engines._arena import GROUPED, LANES, ArenaCache, PlaceBook, Places, Strip
from duo.engines._hf_vocabulary import HFVocabulary
from duo.engines._packed import pack
from duo.engines.base import ROOT, Logits, Piece, Row
from duo.errors import ContextError, ModelError

DEFAULT_CONTEXT = 4096
"""Tokens per slot, at most, unless more is asked for."""

PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose whole memory of the past is keys and values behind a mask."""

CHECK_TOKENS = 12
"""Length of the sequence that every model must get right through the arena before it is used."""

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-6}
"""Relative error of the logits in that check. Float32 gives 1e-6 and half precision some per cent, more where a mixture
of experts has a near tie; a model that sees the wrong tokens is far off."""

MaskForm = Literal["single", "by layer type"]


class _Slot:
    """One sequence: where its committed tokens lie, and which rows hang from it."""

    __slots__ = ("length", "places", "rows", "sight")

    def __init__(self, context: int, keys: int, hidden: float) -> None:
        self.length = 0
        self.places: Places = np.zeros(context, dtype=np.int64)
        """Places of the committed tokens, in order; the first `length` count."""
        self.sight: NDArray[np.float32] = np.full(keys, hidden, dtype=np.float32)
        """The mask row that every row of the slot starts from: 0 at the committed tokens' places, hidden elsewhere."""
        self.rows: set[int] = set()


class _Node:
    """A live row."""

    __slots__ = ("index", "parent", "position", "slot", "trail")

    def __init__(self, slot: int, parent: int, position: int) -> None:
        self.slot = slot
        self.parent = parent
        self.position = position
        self.index = 0
        """Which row of its mask it had in the forward pass that made it."""
        self.trail: list[int] = []
        """Places of its uncommitted ancestors, from the committed sequence downwards, and of itself, the last."""


class _Part:
    """What of a forward pass lies in one lane: pieces of prompts, then rows, given by their numbers."""

    __slots__ = ("pieces", "rows", "width")

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.rows: list[int] = []
        self.width = 0


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
        self._slots: list[_Slot] = []
        self._nodes: dict[int, _Node] = {}
        self._count = options.slots
        self._tree_rows = options.tree_rows
        self._lay_out(apart=False)
        # What a forward pass takes in, written here and shown to torch without a copy.
        self._numbers = np.zeros(3 * self._batch, dtype=np.int64)
        self._numbers_tensor = torch.from_numpy(self._numbers)
        self._mask = np.zeros(0, dtype=np.float32)
        self._windowed_mask = np.zeros(0, dtype=np.float32)

        self._chooses = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        """Whether the model computes logits of some rows alone where it is told which."""
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
        return self._count

    @property
    def batch(self) -> int:
        return self._batch

    @property
    def places_used(self) -> int:
        """Places of the arena that hold committed tokens or live rows, over all slots."""
        return sum(book.used for book in self._books)

    def length(self, slot: int) -> int:
        return self._slot(slot).length

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        seat = self._slot(slot)
        count = len(tokens)
        if count and not 0 <= min(tokens) <= max(tokens) < self._size:
            raise ValueError(f"a token is not in 0..{self._size - 1}")
        self._forget(slot)
        if seat.length + count > self._context:
            raise ContextError(
                f"{seat.length + count} tokens do not fit the context of {self._context}: shorten the conversation"
            )
        book = self._books[self._lane(slot)]
        if count > book.capacity - book.used:
            raise ContextError(f"no room for {count} more tokens beside the other slots' rows: forget some of those")
        for begin in range(0, count, self._batch):
            self.forward((), [Piece(slot, tokens[begin : begin + self._batch])])

    def forward(self, rows: Sequence[Row], pieces: Sequence[Piece] = ()) -> Logits:
        width = len(rows) + sum(len(piece.tokens) for piece in pieces)
        if not width:
            return np.zeros((0, self._size), dtype=np.float32)
        if width > self._batch:
            raise ValueError(f"{width} rows in one forward pass, at most {self._batch} are allowed")
        fresh = self._admit(rows, pieces)
        lengths = {piece.slot: self._slots[piece.slot].length for piece in pieces}
        parts = self._parts(rows, pieces)
        strips: list[Strip] = []
        try:
            for lane, part in parts:
                strips.append(self._take(lane, part.width))
            ids, positions, masks, wanted = self._compose(rows, fresh, parts, strips)
            logits = self._run(ids, positions, strips, masks, wanted)
        except BaseException:
            for slot, length in lengths.items():
                self._cut(slot, length)
            for strip in strips:
                self._books[strip.lane].give(strip.places)
            raise
        self._nodes.update(fresh)
        for id, node in fresh.items():
            self._slots[node.slot].rows.add(id)
        return logits

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
        self._books[self._lane(slot)].give([nodes[id].trail[-1] for id in gone])
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
        self._forget(slot)
        self._books[self._lane(slot)].give(self._cut(slot, length))

    def share(self, source: int, target: int, length: int) -> None:
        giver, seat = self._slot(source), self._slot(target)
        if not 0 <= length <= giver.length:
            raise ValueError(f"slot {source} has {giver.length} tokens, the first {length} of them cannot be shared")
        if source == target:
            self.truncate(target, length)
            return
        self.truncate(target, 0)
        if not length:
            return
        strip = self._take(self._lane(target), length)
        lane, taken = self._lane(source), giver.places[:length]
        with torch.inference_mode():
            self._cache.copy(Strip(lane, taken, 0), strip)
        self._position_of[strip.lane, strip.places] = np.arange(length)
        seat.places[:length] = strip.places
        seat.sight[strip.places] = 0.0
        seat.length = length

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

    def _lay_out(self, apart: bool) -> None:
        """An empty arena, with one lane for all slots or a lane for each."""
        self._apart = apart
        lanes = self._count if apart else 1
        capacity = self._count // lanes * self._context + self._tree_rows
        # On a CPU every masked key costs, accelerators want aligned and recurring shapes more.
        step = 16 if self._device.type == "cpu" else 64
        self._books = [PlaceBook(capacity, step) for _ in range(lanes)]
        self._cache = ArenaCache(self._books)
        self._slots = [_Slot(self._context, self._cache.span, self._hidden) for _ in range(self._count)]
        self._nodes = {}
        self._position_of = np.zeros((lanes, self._cache.span), dtype=np.int64)
        """Position of what lies in a lane's place; read only for models with a sliding window."""

    def _lane(self, slot: int) -> int:
        return slot if self._apart else 0

    def _take(self, lane: int, count: int) -> Strip:
        book = self._books[lane]
        return Strip(lane, book.take(count), book.keys)

    def _cut(self, slot: int, length: int) -> Places:
        """Cut the committed sequence to so many tokens; returns the places of the others, which are still taken."""
        seat = self._slots[slot]
        gone = seat.places[length : seat.length]
        seat.sight[gone] = self._hidden
        seat.length = length
        return gone

    def _forget(self, slot: int) -> None:
        """Drop all uncommitted rows of the slot."""
        seat = self._slots[slot]
        if seat.rows:
            self._books[self._lane(slot)].give([self._nodes.pop(id).trail[-1] for id in seat.rows])
            seat.rows = set()

    def _admit(self, rows: Sequence[Row], pieces: Sequence[Piece]) -> dict[int, _Node]:
        """Check the rows and pieces and give each row its position; nothing of the engine changes yet."""
        live, size, context = self._nodes, self._size, self._context
        lengths: dict[int, int] = {}
        for slot, tokens in pieces:
            seat = self._slot(slot)
            if slot in lengths or seat.rows:
                raise ValueError(f"slot {slot} cannot take a piece: it has rows or another one")
            if not len(tokens) or min(tokens) < 0 or max(tokens) >= size:
                raise ValueError(f"a piece is empty, or has a token that is not in 0..{size - 1}")
            lengths[slot] = seat.length + len(tokens)
            if lengths[slot] > context:
                raise ContextError(f"{lengths[slot]} tokens do not fit the context of {context}")
        fresh: dict[int, _Node] = {}
        for id, slot, token, parent in rows:
            if id < 0 or id in live or id in fresh:
                raise ValueError(f"row id {id} is negative or already in use")
            if not 0 <= token < size:
                raise ValueError(f"token {token} is not in 0..{size - 1}")
            if parent == ROOT:
                position = lengths[slot] if slot in lengths else self._slot(slot).length
            else:
                above = fresh.get(parent) or live.get(parent)
                if above is None or above.slot != slot:
                    raise ValueError(f"row {id}: parent {parent} is not a live row of slot {slot}")
                position = above.position + 1
            if position >= context:
                raise ContextError(f"position {position} is beyond the context of {context} tokens")
            fresh[id] = _Node(slot, parent, position)
        return fresh

    def _parts(self, rows: Sequence[Row], pieces: Sequence[Piece]) -> Sequence[tuple[int, _Part]]:
        """What of a forward pass lies in which lane, in the order of the lanes."""
        parts: defaultdict[int, _Part] = defaultdict(_Part)
        for piece in pieces:
            part = parts[self._lane(piece.slot)]
            part.pieces.append(piece)
            part.width += len(piece.tokens)
        for index, row in enumerate(rows):
            part = parts[self._lane(row.slot)]
            part.rows.append(index)
            part.width += 1
        return sorted(parts.items())

    def _compose(
        self,
        rows: Sequence[Row],
        fresh: dict[int, _Node],
        parts: Sequence[tuple[int, _Part]],
        strips: Sequence[Strip],
    ) -> tuple[list[int], list[int], list[NDArray[np.float32]], list[int]]:
        """Tokens, positions and a mask [rows, keys] for each strip; and where in all this the rows are. The pieces are
        committed on the way."""
        ids: list[int] = []
        positions: list[int] = []
        masks: list[NDArray[np.float32]] = []
        wanted = [0] * len(rows)
        memory = self._mask_memory(sum(part.width * strip.keys for (_, part), strip in zip(parts, strips, strict=True)))
        begin = 0
        for (_, part), strip in zip(parts, strips, strict=True):
            mask = memory[begin : begin + part.width * strip.keys].reshape(part.width, strip.keys)
            begin += mask.size
            at = 0
            for slot, tokens in part.pieces:
                end = at + len(tokens)
                ids += tokens
                positions += range(self._slots[slot].length, self._slots[slot].length + len(tokens))
                self._commit(slot, strip.places[at:end], mask[at:end])
                at = end
            nodes = [fresh[rows[index].id] for index in part.rows]
            self._draw(fresh, nodes, strip.places[at:].tolist(), mask[at:])
            for index, node in zip(part.rows, nodes, strict=True):
                wanted[index] = len(ids)
                ids.append(rows[index].token)
                positions.append(node.position)
            masks.append(mask)
        return ids, positions, masks, wanted

    def _commit(self, slot: int, places: Places, mask: NDArray[np.float32]) -> None:
        """Append a piece, which is a chain: its mask is the slot's own and a triangle."""
        seat, count = self._slots[slot], len(places)
        mask[:] = seat.sight[: mask.shape[1]]
        mask[:, places] = np.triu(np.full((count, count), self._hidden, dtype=np.float32), 1)
        seat.places[seat.length : seat.length + count] = places
        seat.sight[places] = 0.0
        seat.length += count

    def _draw(
        self, fresh: dict[int, _Node], nodes: Sequence[_Node], places: Sequence[int], mask: NDArray[np.float32]
    ) -> None:
        """Draw the mask [rows, keys] of some of the fresh rows, from ancestry; fills in their trails on the way."""
        keys = mask.shape[1]
        for index, (node, place, row) in enumerate(zip(nodes, places, mask, strict=True)):
            node.index = index
            parent = node.parent
            if parent == ROOT:
                row[:] = self._slots[node.slot].sight[:keys]
                node.trail = [place]
            elif (above := fresh.get(parent)) is not None:
                row[:] = mask[above.index]
                node.trail = [*above.trail, place]
            else:
                above = self._nodes[parent]
                row[:] = self._slots[node.slot].sight[:keys]
                row[above.trail] = 0.0
                node.trail = [*above.trail, place]
            row[place] = 0.0

    def _mask_memory(self, size: int) -> NDArray[np.float32]:
        """Uninitialised memory for the masks and, where the model has windows, as much for the windowed ones."""
        if self._mask.size < size:
            # Twice as much for the small masks of decoding, which grow a little every few tokens; not for a prefill's.
            room = max(size, min(2 * size, 1 << 20))
            self._mask = np.empty(room, dtype=np.float32)
            self._windowed_mask = np.empty(room if self._window else 0, dtype=np.float32)
        return self._mask

    def _run(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        strips: Sequence[Strip],
        masks: Sequence[NDArray[np.float32]],
        wanted: Sequence[int],
    ) -> Logits:
        """One forward pass over the strips side by side; logits [len(wanted), size] of those rows."""
        width = len(ids)
        numbers = self._numbers[: 3 * width].reshape(3, width)
        numbers[0], numbers[1] = ids, positions
        if len(strips) == 1:
            numbers[2] = strips[0].places
        with torch.inference_mode():
            on_device = self._numbers_tensor[: 3 * width].view(3, 1, width).to(self._device)
            input_ids, position_ids, where = on_device.unbind(0)
            full = sliding = self._tensors(masks)
            if self._window:
                windowed, begin, end = list(masks), 0, 0
                for index, (strip, mask) in enumerate(zip(strips, masks, strict=True)):
                    mine = numbers[1, begin : begin + len(mask)]
                    windowed[index] = self._windowed(mask, mine, strip, self._windowed_mask[end:])
                    begin, end = begin + len(mask), end + mask.size
                sliding = self._tensors(windowed)
            if len(strips) == 1:
                self._cache.aim(strips[0], where[0])
            else:
                self._cache.aim_lanes(strips)
            attention_mask: Any = sliding
            if self._window and self._form == "by layer type":
                attention_mask = {"full_attention": full, "sliding_attention": sliding}
            options: dict[str, Any] = {}
            module, chosen = self._model, None
            if not wanted:
                # The base model stops before the projection to the vocabulary.
                module = self._model.base_model
            elif wanted != list(range(width)):
                chosen = torch.tensor(wanted, device=self._device)
                if self._chooses:
                    options["logits_to_keep"] = chosen
            output = module(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                past_key_values=self._cache,
                use_cache=True,
                **options,
            )
            if not wanted:
                return np.zeros((0, self._size), dtype=np.float32)
            logits = output.logits[0]
            if chosen is not None and not options:
                logits = logits[chosen]
            result: Logits = logits.to(device="cpu", dtype=torch.float32).numpy()
            return result

    def _windowed(
        self, mask: NDArray[np.float32], positions: Places, strip: Strip, memory: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The mask with keys at or before position - window hidden too; the mask itself where that changes nothing."""
        position_of = self._position_of[strip.lane]
        position_of[strip.places] = positions
        horizon = positions - self._window
        if int(horizon.max()) < 0:
            return mask
        windowed = memory[: mask.size].reshape(mask.shape)
        windowed[:] = mask
        windowed[position_of[: strip.keys] <= horizon[:, None]] = self._hidden
        return windowed

    def _tensors(self, masks: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        """The masks as the model wants them, [1, 1, rows, keys]. Those of several lanes travel through the model on one
        that only says how many rows there are."""
        if len(masks) == 1:
            return self._tensor(masks[0])
        carrier = torch.zeros((1, 1, sum(map(len, masks)), 1), dtype=self._dtype)
        setattr(carrier, LANES, [self._tensor(mask) for mask in masks])
        return carrier

    def _tensor(self, mask: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(mask)[None, None].to(device=self._device, dtype=self._dtype)

    def _prove(self, forms: Sequence[MaskForm], shared_keys: bool, kind: str) -> None:
        """Find the attention and the form of mask that suit the model, by comparing the arena's logits with its own.

        Whether a model's code takes positions and a mask from outside is nowhere declared, and one that ignores them
        raises no error: its text would just be wrong. So a short sequence must give the same logits both ways, through
        the arena in pieces and with a row in its midst that must not be seen. Sets the number of logits per row.
        """
        embeddings = int(self._model.get_input_embeddings().num_embeddings)
        count = min(CHECK_TOKENS, self._context)
        texts = [[(3 + 5 * index) % embeddings for index in range(count)]]
        if self._count > 1:
            texts.append([(7 + 11 * index) % embeddings for index in range(count)])
        own = self._model.config._attn_implementation
        ways = [(own, False)]
        if own == "sdpa" and shared_keys:
            ways.insert(0, (GROUPED, False))
        if own == "sdpa" and self._count > 1 and self._device.type == "cpu":
            ways.insert(0, (GROUPED, True))
        failure = ""
        with _quiet(), torch.inference_mode():
            try:
                wanted: list[Logits] = []
                for ids in texts:
                    reference = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False)
                    wanted.append(reference.logits[0].float().cpu().numpy())
            except Exception as fault:  # from code that is not ours
                raise ModelError(f"{self._name} ({kind}) does not run: {_line(fault)}") from fault
            self._size = wanted[0].shape[1]
            for (attention, apart), form in product(ways, forms):
                self._form = form
                self._lay_out(apart)
                try:
                    if self._model.config._attn_implementation != attention:
                        self._model.set_attn_implementation(attention)
                    error = max(self._compare(texts[:1], wanted[:1]), self._compare(texts, wanted))
                except Exception as fault:  # whatever a model's code makes of a mask or a cache it does not know
                    failure = _line(fault)
                    continue
                if error <= TOLERANCE.get(self._dtype, 0.25):
                    return
                failure = f"its logits are off by {error:.1e}"
        raise ModelError(
            f"{self._name}: the transformers engine cannot run models of type {kind}, which do not take an attention "
            f"mask as plain decoders do ({failure}): use another model or a GGUF of this one"
        )

    def _compare(self, texts: Sequence[list[int]], wanted: Sequence[Logits]) -> float:
        """The relative error of the arena's logits, where plain forward passes over the texts give `wanted`.

        Each text has its slot; the rows of the second half come in turn.
        """
        length, slots = len(texts[0]), range(len(texts))
        half, name = length // 2, len(texts) * length
        room = self._books[0].capacity // (1 if self._apart else len(texts))
        rows = [
            Row(slot * length + at, slot, texts[slot][at], slot * length + at - 1 if at > half else ROOT)
            for at in range(half, length)
            for slot in slots
        ]
        got: list[Logits] = []
        for slot, text in enumerate(texts):
            self.extend(slot, text[: half - 1])
            pieces = [Piece(slot, text[half - 1 : half])]
            if self._batch == 1:
                self.forward((), pieces)
                pieces = []
            got.extend(self.forward([rows[slot]], pieces))
            if room > length:
                # In the arena, but not to be seen by the rows below.
                self.forward([Row(name + slot, slot, text[-1])])
        for begin in range(len(texts), len(rows), self._batch):
            got.extend(self.forward(rows[begin : begin + self._batch]))
        for slot in slots:
            self.truncate(slot, 0)
        expected = np.stack([wanted[slot][at] for at in range(half, length) for slot in slots])
        return float(np.linalg.norm(np.stack(got) - expected) / np.linalg.norm(expected - expected.mean()))


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
