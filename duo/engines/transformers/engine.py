"""Any decoder-only model of the transformers library behind the Engine interface.

Committed tokens and uncommitted rows lie in a KV arena (see `arena`). A forward pass is always one sequence as far as
the model can tell: batch dimension 1, the rows of all slots side by side, an explicit position for each. An additive
mask [1, 1, rows, keys] lets a row see its own slot's committed tokens, its ancestors and itself. Drafts,
several conversations and prefill are the same call; committing and forgetting rows copies nothing. Where each slot has
a lane of the arena to itself, rows of several slots have a mask for each lane.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from duo.engines import memory
from duo.engines.base import ROOT, TREES, Chunk, Logits, Rollback, Row
from duo.engines.options import EngineOptions, Progress
from duo.engines.transformers import checkpoints, context_size, mixers, proof
from duo.engines.transformers import loading as hf
from duo.engines.transformers.arena import ArenaCache, PlaceBook, Places, Strip
from duo.engines.transformers.attention import GROUPED
from duo.engines.transformers.directory import locate
from duo.engines.transformers.masks import Composed, Masks, Node, Slot, admit, slot_of, split
from duo.engines.transformers.packed import pack
from duo.engines.transformers.paths import FreshRow, Span
from duo.engines.transformers.states import States
from duo.engines.transformers.vocabulary import HFVocabulary
from duo.errors import ContextError, ModelError


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
            hf.serve_or_refuse(mixers.unserved(config), config, self._name)
            self._sight = hf.sight_of(config, text_config, self._name)
            if not options.target_context:
                hf.context_of(text_config, options.context, self._name)  # refused before minutes are spent on weights
            progress(0.05)
            tokenizer = hf.read_tokenizer(source, self._name)
            progress(0.1)
            before = memory.available()
            self._model = hf.read_weights(source, self._name, config, options.dtype, self._device)
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
        self._slots: list[Slot] = []
        self._nodes: dict[int, Node] = {}
        self._count = options.slots
        self._tree_rows = options.tree_rows
        self._mixers = mixers.found(self._model)
        hf.serve_or_refuse(mixers.unknown(self._mixers), config, self._name)
        self._states: States | None = None
        """The memory of recurrent layers; None in models that have attention only."""
        # What a forward pass takes in, written here and shown to torch without a copy.
        self._numbers = np.zeros(3 * self._batch, dtype=np.int64)
        self._numbers_tensor = torch.from_numpy(self._numbers)

        parameters = inspect.signature(self._model.forward).parameters
        self._chooses = "logits_to_keep" in parameters
        """Whether the model computes logits of some rows alone where it is told which."""
        self._slices = "logits_to_keep" in inspect.signature(self._model.base_model.forward).parameters
        """Whether its inner layers slice their masks as well, unless the rows are given one by one (Gemma 4)."""
        self._memory = "cache_params" if "cache_params" in parameters else "past_key_values"
        """What the model calls the cache."""
        self._by_row = options.chains and self._device.type == "cpu"
        self._form: hf.MaskForm = self._sight.forms[0]
        self._size = 0
        layers = getattr(text_config, "per_layer_config", None) or [text_config]
        heads = [getattr(layer, "num_attention_heads", None) for layer in layers]
        keys = [getattr(layer, "num_key_value_heads", count) for layer, count in zip(layers, heads, strict=True)]
        self._prove(keys != heads, str(config.model_type))
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
    def capacity(self) -> int:
        return self._tree_rows

    @property
    def note(self) -> str:
        if self._states is None:
            return self._note
        states = self._states
        return (
            f"{self._note}; it is recurrent: {self._count} states take {states.bytes_per_slot / 2**20:.1f} MiB each, "
            f"and so does each of at most {states.checkpoints_per_slot} checkpoints a slot"
        )

    @property
    def inexact(self) -> str:
        """Why the bits of a row depend on more than widths (see `duo.engines.exact.decision`); empty if they do not."""
        if self._device.type != "cpu":
            return f"it runs on {self._device.type}, where the order of sums follows the shape of a pass"
        if self._mixers:
            return "it is recurrent, and its state has seen every row that ran"
        if any("experts" in name.rpartition(".")[2] for name, _ in self._model.named_modules()):
            return "each of its experts multiplies as many rows as all slots route to it"
        if not self._cache.by_row or self._model.config._attn_implementation != GROUPED:
            return "its attention cannot be computed row by row"
        return "" if self._apart or self._count == 1 else "its slots share one cache; --parallel 1 ends that"

    @property
    def prompts_apart(self) -> bool:
        """Whether what a prompt leaves has other bits than what rows leave, even if that does not show at once."""
        return True

    def attend_by_row(self, on: bool) -> None:
        """Whether rows attend one by one from now on, as for the same bits, or together. No slot holds tokens then."""
        self._by_row = self._cache.by_row = on

    @property
    def rollback(self) -> Rollback:
        return TREES

    @property
    def mixes(self) -> bool:
        return True

    @property
    def neighbours(self) -> bool:
        return False

    @property
    def spacing(self) -> int:
        return checkpoints.SPACING if self._mixers else 1

    def step_by_step(self, on: bool) -> None:
        """Whether recurrent layers compute rows one after the other, as equal calls, while no row is live.

        A row then has the same bits whatever rows share its pass, and however the rows before it were accepted. It
        takes longer for several rows of a slot. Attention does not change.
        """
        if self._nodes:
            raise ValueError("rows are live: keep or forget them first")
        if self._states is not None:
            self._states.exact = on

    def length(self, slot: int) -> int:
        return self._slot(slot).length

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        state = self._slot(slot)
        count = len(tokens)
        if count and not 0 <= min(tokens) <= max(tokens) < self._size:
            raise ValueError(f"a token is not in 0..{self._size - 1}")
        self._forget(slot)
        if state.length + count > self._context:
            raise ContextError(
                f"{state.length + count} tokens do not fit the context of {self._context}: shorten the conversation"
            )
        book = self._books[self._lane(slot)]
        if count > book.capacity - book.used:
            raise ContextError(f"no room for {count} more tokens beside the other slots' rows: forget some of those")
        for begin in range(0, count, self._batch):
            self.forward((), [Chunk(slot, tokens[begin : begin + self._batch])])

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        width = len(rows) + sum(len(chunk.tokens) for chunk in chunks)
        if not width:
            return np.zeros((0, self._size), dtype=np.float32)
        if width > self._batch:
            raise ValueError(f"{width} rows in one forward pass, at most {self._batch} are allowed")
        fresh = admit(rows, chunks, self._slots, self._nodes, self._size, self._context)
        lengths = {chunk.slot: self._slots[chunk.slot].length for chunk in chunks}
        parts = split(rows, chunks, self._lane)
        strips: list[Strip] = []
        try:
            for lane, part in parts:
                strips.append(self._take(lane, part.width))
            composed = self._masks.compose(rows, fresh, parts, strips)
            if self._states is not None:
                self._begin(self._states, rows, fresh, composed)
            logits = self._run(composed, strips)
        except BaseException:
            if self._states is not None:
                self._states.abandon()
            for slot, length in lengths.items():
                self._cut(slot, length)
            for strip in strips:
                self._books[strip.lane].give(strip.places)
            raise
        if self._states is not None:
            self._states.finish()
        self._nodes.update(fresh)
        for id, node in fresh.items():
            self._slots[node.slot].rows.add(id)
        return logits

    def interrupt(self) -> None:
        self._cache.interrupted = True

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        state, nodes = self._slot(slot), self._nodes
        end = ROOT
        for id in path:
            if id not in state.rows or nodes[id].parent != end:
                raise ValueError(f"row {id} does not continue the path in slot {slot}")
            end = id
        staying = frozenset(rest)
        for id in staying:
            if id not in state.rows or not (nodes[id].parent == end or nodes[id].parent in staying):
                raise ValueError(f"row {id} does not hang from the end of the path in slot {slot}")
        taken = [nodes[id].trail[-1] for id in path]
        if self._states is not None:
            kept = [[nodes[id].memory[-1] for id in ids] for ids in (path, staying)]
            self._states.commit(slot, state.length, kept[0], kept[1])
        if taken:
            length = state.length + len(taken)
            state.places[state.length : length] = taken
            state.sight[taken] = 0.0
            state.length = length
        gone = state.rows.difference(staying, path)
        self._books[self._lane(slot)].give([nodes[id].trail[-1] for id in gone])
        for id in gone:
            del nodes[id]
        for id in path:
            del nodes[id]
        for id in staying:
            node = nodes[id]
            del node.trail[: len(taken)]
            del node.memory[: len(taken)]
            if node.parent == end:
                node.parent = ROOT
        state.rows = set(staying)

    def restorable(self, slot: int, length: int) -> int:
        held = self.length(slot)
        if self._states is None:
            return min(length, held)
        return self._states.restorable(slot, held, length)

    def truncate(self, slot: int, length: int) -> int:
        state = self._slot(slot)
        if not 0 <= length <= state.length:
            raise ValueError(f"cannot cut {state.length} committed tokens to {length}")
        self._forget(slot)
        left = self.restorable(slot, length)
        if self._states is not None:
            self._states.restore(slot, state.length, left)
        self._books[self._lane(slot)].give(self._cut(slot, left))
        return left

    def share(self, source: int, target: int, length: int) -> int:
        giver, state = self._slot(source), self._slot(target)
        if not 0 <= length <= giver.length:
            raise ValueError(f"slot {source} has {giver.length} tokens, the first {length} of them cannot be shared")
        if source == target:
            return self.truncate(target, length)
        self.truncate(target, 0)
        length = self.restorable(source, length)
        if not length:
            return 0
        strip = self._take(self._lane(target), length)
        lane, taken = self._lane(source), giver.places[:length]
        with torch.inference_mode():
            self._cache.copy(Strip(lane, taken, 0), strip)
        if self._states is not None:
            self._states.share(source, target, giver.length, length)
        self._masks.position_of[strip.lane, strip.places] = np.arange(length)
        state.places[:length] = strip.places
        state.sight[strip.places] = 0.0
        state.length = length
        return length

    def close(self) -> None:
        self._model = None
        self._cache.layers.clear()
        self._slots, self._nodes, self._states, self._mixers = [], {}, None, []
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _slot(self, slot: int) -> Slot:
        return slot_of(self._slots, slot)

    def _lay_out(self, apart: bool) -> None:
        """An empty arena, with one lane for all slots or a lane for each."""
        self._apart = apart
        lanes = self._count if apart else 1
        capacity = self._count // lanes * self._context + self._tree_rows
        # On a CPU every masked key costs, accelerators want aligned and recurring shapes more.
        step = 16 if self._device.type == "cpu" else 64
        self._books = [PlaceBook(capacity, step) for _ in range(lanes)]
        self._cache = ArenaCache(self._books)
        self._cache.by_row = self._by_row
        self._slots = [Slot(self._context, self._cache.span, self._hidden) for _ in range(self._count)]
        self._nodes = {}
        self._masks = Masks(
            self._slots, self._nodes, lanes, self._cache.span, self._hidden, self._sight, self._device, self._dtype
        )
        if self._mixers:
            self._states = mixers.attach(self._mixers, self._count, self._device, self._cache)

    def _lane(self, slot: int) -> int:
        return slot if self._apart else 0

    def _take(self, lane: int, count: int) -> Strip:
        book = self._books[lane]
        return Strip(lane, book.take(count), book.keys)

    def _cut(self, slot: int, length: int) -> Places:
        """Cut the committed sequence to so many tokens; returns the places of the others, which are still taken."""
        state = self._slots[slot]
        gone = state.places[length : state.length]
        state.sight[gone] = self._hidden
        state.length = length
        return gone

    def _forget(self, slot: int) -> None:
        """Drop all uncommitted rows of the slot."""
        state = self._slots[slot]
        if state.rows:
            if self._states is not None:
                self._states.commit(slot, state.length, (), ())
            self._books[self._lane(slot)].give([self._nodes.pop(id).trail[-1] for id in state.rows])
            state.rows = set()

    def _begin(self, states: States, rows: Sequence[Row], fresh: dict[int, Node], composed: Composed) -> None:
        """Tell the memory of recurrent layers what comes."""
        for row, place in zip(rows, states.places(len(rows)), strict=True):
            above = fresh.get(row.parent) or self._nodes.get(row.parent)
            fresh[row.id].memory = [*(above.memory if above is not None else ()), place]
        states.begin(
            [Span(slot, begin, end, self._slots[slot].length) for slot, begin, end in composed.spans],
            [FreshRow(row.slot, at, fresh[row.id].memory) for row, at in zip(rows, composed.wanted, strict=True)],
        )

    def _run(self, composed: Composed, strips: Sequence[Strip]) -> Logits:
        """One forward pass over the strips side by side; logits [rows, size] of the rows alone."""
        width, wanted = len(composed.tokens), composed.wanted
        numbers = self._numbers[: 3 * width].reshape(3, width)
        numbers[0], numbers[1] = composed.tokens, composed.positions
        if len(strips) == 1:
            numbers[2] = strips[0].places
        with torch.inference_mode():
            on_device = self._numbers_tensor[: 3 * width].view(3, 1, width).to(self._device)
            input_ids, position_ids, where = on_device.unbind(0)
            full = partial = self._masks.tensors(composed.masks)
            if self._sight.window:
                partial = self._masks.tensors(self._masks.windowed(composed.masks, numbers[1], strips))
            if len(strips) == 1:
                self._cache.aim(strips[0], where[0])
            else:
                self._cache.aim_lanes(strips)
            attention_mask: Any = partial
            if self._sight.window and self._form == "by layer type":
                attention_mask = dict.fromkeys(hf.STATEFUL_LAYERS) | {
                    hf.FULL: full,
                    hf.SLIDING: partial,
                    hf.CHUNKED: partial,
                }
            options: dict[str, Any] = {self._memory: self._cache}
            module, chosen = self._model, None
            if not wanted:
                # The base model stops before the projection to the vocabulary.
                module = self._model.base_model
                if self._slices:
                    options["logits_to_keep"] = torch.arange(width, device=self._device)
            elif self._slices or wanted != list(range(width)):
                chosen = torch.tensor(wanted, device=self._device)
                if self._chooses:
                    options["logits_to_keep"] = chosen
            output = module(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                use_cache=True,
                **options,
            )
            if not wanted:
                return np.zeros((0, self._size), dtype=np.float32)
            logits = output.logits[0]
            if chosen is not None and not self._chooses:
                logits = logits[chosen]
            result: Logits = logits.to(device="cpu", dtype=torch.float32).numpy()
            return result

    def _prove(self, shared_keys: bool, kind: str) -> None:
        """Find the attention and the form of mask that suit the model (see `proof`); sets the number of logits per row.

        Refuses a model that none of them suits.
        """
        embeddings = int(self._model.get_input_embeddings().num_embeddings)
        texts = proof.texts_of(embeddings, min(2, self._count), min(proof.TOKENS, self._context))
        own = self._model.config._attn_implementation
        ways = [(own, False)]
        if own == "sdpa" and (shared_keys or self._by_row):
            ways.insert(0, (GROUPED, False))
        if own == "sdpa" and self._count > 1 and self._device.type == "cpu":
            ways.insert(0, (GROUPED, True))
        failure = ""
        with hf.quiet(), torch.inference_mode():
            try:
                wanted = proof.references(self._model, texts, self._device)
            except Exception as fault:  # from code that is not ours
                raise ModelError(f"{self._name} ({kind}) does not run: {hf.first_line(fault)}") from fault
            self._size = wanted[0].shape[1]
            for (attention, apart), form in product(ways, self._sight.forms):
                self._form = form
                self._lay_out(apart)
                room = self._books[0].capacity // (1 if apart else len(texts))
                try:
                    if self._model.config._attn_implementation != attention:
                        self._model.set_attn_implementation(attention)
                    error = max(
                        proof.error(self, texts[:count], wanted[:count], room) for count in range(1, len(texts) + 1)
                    )
                except Exception as fault:  # whatever a model's code makes of a mask or a cache it does not know
                    failure = hf.first_line(fault)
                    continue
                if error <= proof.TOLERANCE.get(self._dtype, proof.LOOSE):
                    self._masks.attends = bool(self._cache.layers)
                    return
                failure = f"its logits are off by {error:.1e}"
        raise ModelError(
            f"{self._name}: the transformers engine cannot run models of type {kind}, which do not take an attention "
            f"mask as plain decoders do ({failure}): use another model or a GGUF of this one"
        )
