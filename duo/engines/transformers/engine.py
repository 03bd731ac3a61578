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
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from duo.engines import memory
from duo.engines.base import ROOT, TREES, Logits, Piece, Rollback, Row
from duo.engines.options import EngineOptions, Progress
from duo.engines.transformers import context_size
from duo.engines.transformers import loading as hf
from duo.engines.transformers.arena import GROUPED, LANES, ArenaCache, PlaceBook, Places, Strip
from duo.engines.transformers.directory import locate
from duo.engines.transformers.packed import pack
from duo.engines.transformers.vocabulary import HFVocabulary
from duo.errors import ContextError, ModelError

CHECK_TOKENS = 12
"""Length of the sequence that every model must get right through the arena before it is used."""

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-6}
"""Relative error of the logits in that check. Float32 gives 1e-6 and half precision some per cent, more where a mixture
of experts has a near tie; a model that sees the wrong tokens is far off."""


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
        source, self._name = locate(model)
        if options.slots < 1 or options.batch < 1 or options.tree_rows < 0 or options.context < 0:
            raise ModelError("slots and batch must be at least 1, tree_rows and context at least 0")
        if options.threads > 0:
            torch.set_num_threads(options.threads)
        self._device = hf.device_of(options.device)
        with hf.quiet():
            config = hf.read_config(source, self._name)
            text_config = config.get_text_config(decoder=True)
            self._window, forms = hf.attention(config, text_config, self._name)
            hf.context_of(text_config, options.context, self._name)  # refused before minutes are spent on weights
            progress(0.05)
            tokenizer = hf.read_tokenizer(source, self._name)
            progress(0.1)
            before = memory.available()
            self._model = hf.read_weights(source, self._name, options.dtype, self._device)
        fit = context_size.choose(self._name, text_config, self._model, options, self._device, before)
        self._context = fit.context
        self._note = fit.line(self._name, options.slots)
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
        self._form: hf.MaskForm = forms[0]
        self._size = 0
        heads = getattr(text_config, "num_attention_heads", None)
        shared_keys = getattr(text_config, "num_key_value_heads", heads) != heads
        self._prove(forms, shared_keys, str(config.model_type))
        self._vocabulary = HFVocabulary(tokenizer, self._size, hf.eos_of(self._model, tokenizer))
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

    @property
    def room(self) -> int:
        return self._tree_rows

    @property
    def note(self) -> str:
        return self._note

    @property
    def rollback(self) -> Rollback:
        return TREES

    @property
    def mixes(self) -> bool:
        return True

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

    def restorable(self, slot: int, length: int) -> int:
        return min(length, self.length(slot))

    def truncate(self, slot: int, length: int) -> int:
        seat = self._slot(slot)
        if not 0 <= length <= seat.length:
            raise ValueError(f"cannot cut {seat.length} committed tokens to {length}")
        self._forget(slot)
        self._books[self._lane(slot)].give(self._cut(slot, length))
        return length

    def share(self, source: int, target: int, length: int) -> int:
        giver, seat = self._slot(source), self._slot(target)
        if not 0 <= length <= giver.length:
            raise ValueError(f"slot {source} has {giver.length} tokens, the first {length} of them cannot be shared")
        if source == target:
            return self.truncate(target, length)
        self.truncate(target, 0)
        if not length:
            return 0
        strip = self._take(self._lane(target), length)
        lane, taken = self._lane(source), giver.places[:length]
        with torch.inference_mode():
            self._cache.copy(Strip(lane, taken, 0), strip)
        self._position_of[strip.lane, strip.places] = np.arange(length)
        seat.places[:length] = strip.places
        seat.sight[strip.places] = 0.0
        seat.length = length
        return length

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

    def _prove(self, forms: Sequence[hf.MaskForm], shared_keys: bool, kind: str) -> None:
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
        with hf.quiet(), torch.inference_mode():
            try:
                wanted: list[Logits] = []
                for ids in texts:
                    reference = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False)
                    wanted.append(reference.logits[0].float().cpu().numpy())
            except Exception as fault:  # from code that is not ours
                raise ModelError(f"{self._name} ({kind}) does not run: {hf.first_line(fault)}") from fault
            self._size = wanted[0].shape[1]
            for (attention, apart), form in product(ways, forms):
                self._form = form
                self._lay_out(apart)
                try:
                    if self._model.config._attn_implementation != attention:
                        self._model.set_attn_implementation(attention)
                    error = max(self._compare(texts[:1], wanted[:1]), self._compare(texts, wanted))
                except Exception as fault:  # whatever a model's code makes of a mask or a cache it does not know
                    failure = hf.first_line(fault)
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
