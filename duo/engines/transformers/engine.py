"""Any decoder-only model of the transformers library behind the Engine interface.

Committed tokens and live rows lie in a KV arena (see `arena`). To the model a forward pass is always one sequence:
batch dimension 1, the rows of all slots side by side, and a position for each row. An additive mask [1, 1, rows, keys]
lets a row see the committed tokens of its slot, its ancestors and itself. Drafts, several conversations and prefill are
the same call. To commit or forget rows copies nothing. Where each slot has its own lane, each lane has a mask.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Collection, Sequence
from itertools import product
from operator import attrgetter

import numpy as np
import torch

from duo.engines import checks, memory, suggested
from duo.engines.base import ROOT, TREES, Chunk, Logits, Row
from duo.engines.options import EngineOptions, Progress
from duo.engines.slot_copy import SlotCopy
from duo.engines.transformers import checkpoints, context_size, copies, mixers, proof
from duo.engines.transformers import loading as hf
from duo.engines.transformers.arena import ArenaCache, PlaceBook, Places, Strip
from duo.engines.transformers.attention import GROUPED
from duo.engines.transformers.directory import locate
from duo.engines.transformers.hidden import Recorder, Tap
from duo.engines.transformers.masks import Masks, Node, Slot, admit, split
from duo.engines.transformers.packed import pack
from duo.engines.transformers.runner import ModelRunner
from duo.engines.transformers.states import States
from duo.engines.transformers.vocabulary import HFVocabulary
from duo.errors import ContextError, ModelError, first_line

log = logging.getLogger("duo")


class TransformersEngine:
    """A causal language model of the transformers library, run through the KV arena."""

    runtime = "transformers"
    rollback = TREES
    mixes = True
    neighbours = False
    prompts_apart = True
    """What a prompt leaves has other bits than what rows leave, even if that does not show at once."""

    def __init__(self, model: str, options: EngineOptions, progress: Progress) -> None:
        progress(0.0)
        self.source, name = locate(model)
        self.name = options.name or name
        if options.slots < 1 or options.batch < 1 or options.tree_rows < 0 or options.context < 0:
            raise ModelError("slots and batch must be at least 1, tree_rows and context at least 0")
        if options.threads > 0:
            torch.set_num_threads(options.threads)
        self._device = hf.device_of(options.device)
        with hf.quiet():
            config = hf.read_config(self.source, self.name)
            text_config = config.get_text_config(decoder=True)
            hf.serve_or_refuse(mixers.unserved(config), config, self.name)
            self._sight = hf.sight_of(config, text_config, self.name)
            if not options.target_context:
                hf.context_of(text_config, options.context, self.name)  # refuses before minutes are spent on weights
            progress(0.05)
            tokenizer = hf.read_tokenizer(self.source, self.name)
            progress(0.1)
            before = memory.available()
            loaded = hf.read_weights(self.source, self.name, config, options.dtype, self._device)
        fit = context_size.choose(self.name, text_config, loaded, options, self._device, before)
        pack(loaded)
        progress(0.9)
        self.sampling = suggested.of_config(hf.read_generation_config(self.source), self.name)

        self.context = fit.context
        self.slots = options.slots
        self.batch = options.batch
        self.capacity = options.tree_rows
        self._fit_line = fit.line(self.name, options.slots)
        self._dtype: torch.dtype = loaded.dtype
        # The most negative number and not -inf: fused kernels work block by block, and the maximum of a block of -inf
        # would give nan.
        self._hidden = float(torch.finfo(self._dtype).min)
        self.sequences: list[Slot] = []
        """Committed tokens and rows of each slot."""
        self._nodes: dict[int, Node] = {}
        self._mixers = mixers.found(loaded)
        hf.serve_or_refuse(mixers.unknown(self._mixers), config, self.name)
        self.spacing = checkpoints.SPACING if self._mixers else 1
        self._states: States | None = None
        """The memory of recurrent layers; None in models with attention only."""
        self._recorder = Recorder()
        self._by_row = options.chains and self._device.type == "cpu"
        self.runner = ModelRunner(loaded, self.batch, self._sight, self._device)
        layers = getattr(text_config, "per_layer_config", None) or [text_config]
        heads = [getattr(layer, "num_attention_heads", None) for layer in layers]
        keys = [getattr(layer, "num_key_value_heads", count) for layer, count in zip(layers, heads, strict=True)]
        self._prove(keys != heads, str(config.model_type))
        self.vocabulary = HFVocabulary(tokenizer, self.runner.size, hf.eos_of(loaded, tokenizer))
        progress(1.0)

    @property
    def note(self) -> str:
        if self._states is None:
            return self._fit_line
        states, mib = self._states, self._states.bytes_per_slot / 2**20
        return (
            f"{self._fit_line}; it is recurrent: {self.slots} states take {mib:.1f} MiB each, "
            f"and so does each of at most {states.checkpoints_per_slot} checkpoints a slot"
        )

    @property
    def attention(self) -> str:
        """Name of the attention function that the model runs with. The library lets one set it, but not ask for it."""
        return str(attrgetter("_attn_implementation")(self.runner.model.config))

    @property
    def inexact(self) -> str:
        """Why the bits of a row depend on more than widths (see `duo.engines.exact`); empty if they do not."""
        if self._device.type != "cpu":
            return f"it runs on {self._device.type}, where the order of sums follows the shape of a pass"
        if self._mixers:
            return "it is recurrent, and its state has seen every row that ran"
        if any("experts" in name.rpartition(".")[2] for name, _ in self.runner.model.named_modules()):
            return "each of its experts multiplies as many rows as all slots route to it"
        if not self.cache.by_row or self.attention != GROUPED:
            return "its attention cannot be computed row by row"
        return "" if self._apart or self.slots == 1 else "its slots share one cache; --parallel 1 ends that"

    def attend_by_row(self, on: bool) -> None:
        """Let rows attend one by one, as the same bits need, or together. No slot holds tokens then."""
        self._by_row = self.cache.by_row = on

    def watch(self, tap: Tap) -> None:
        """Tell this tap, and no other, of hidden states. Raises ModelError if the model has not what it wants."""
        self._recorder.watch(self.runner.model, tap)

    def step_by_step(self, on: bool) -> None:
        """Let recurrent layers compute rows one after the other, as equal calls. No row is live then.

        A row then has the same bits whatever rows share its pass, and however the rows before it were accepted. Several
        rows of a slot take longer. Attention does not change.
        """
        if self._nodes:
            raise ValueError("rows are live: commit or forget them first")
        if self._states is not None:
            self._states.exact = on

    def length(self, slot: int) -> int:
        return self._sequence(slot).length

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        state = self._sequence(slot)
        count = len(tokens)
        if count:
            checks.check_tokens(tokens, self.runner.size)
        self.commit(slot, ())
        if state.length + count > self.context:
            raise ContextError(
                f"{state.length + count} tokens do not fit the context of {self.context}: shorten the conversation"
            )
        book = self._books[self._lane(slot)]
        if count > book.capacity - book.used:
            raise ContextError(f"no room for {count} more tokens beside the other slots' rows: forget some of those")
        for begin in range(0, count, self.batch):
            self.forward((), [Chunk(slot, tokens[begin : begin + self.batch])])

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        if not checks.width_of(rows, chunks, self.batch):
            return np.zeros((0, self.runner.size), dtype=np.float32)
        fresh = admit(rows, chunks, self.sequences, self._nodes, self.runner.size, self.context)
        lengths = {chunk.slot: self.sequences[chunk.slot].length for chunk in chunks}
        parts = split(rows, chunks, self._lane)
        strips: list[Strip] = []
        try:
            for lane, part in parts:
                strips.append(self._take(lane, part.width, part.padding))
            composed = self._masks.compose(rows, fresh, parts, strips)
            if self._states is not None:
                mixers.begin(self._states, rows, fresh, self._nodes, self.sequences, composed)
            logits = self.runner.run(composed, strips, self._masks, self.cache)
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
        self._recorder.passed(rows, chunks, composed.wanted, composed.spans, lengths)
        self._nodes.update(fresh)
        for id, node in fresh.items():
            self.sequences[node.slot].rows.add(id)
        return logits

    def interrupt(self) -> None:
        self.cache.interrupted = True

    def commit(self, slot: int, path: Sequence[int], rest: Collection[int] = ()) -> None:
        state, nodes = self._sequence(slot), self._nodes
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
        gone = state.rows.difference(staying, path)
        self._recorder.committed(slot, state.length, path, gone)
        if self._states is not None:
            kept = [[nodes[id].memory[-1] for id in ids] for ids in (path, staying)]
            self._states.commit(slot, state.length, kept[0], kept[1])
        if taken:
            length = state.length + len(taken)
            state.places[state.length : length] = taken
            state.sight[taken] = 0.0
            state.length = length
        self._books[self._lane(slot)].give([nodes[id].trail[-1] for id in gone])
        for id in (*gone, *path):
            del nodes[id]
        for id in staying:
            node = nodes[id]
            del node.trail[: len(taken)]
            del node.memory[: len(taken)]
            if node.parent == end:
                node.parent = ROOT
        state.rows = set(staying)

    def restorable(self, slot: int, length: int) -> int:
        tokens = self.length(slot)
        if self._states is None:
            return min(length, tokens)
        return self._states.restorable(slot, tokens, length)

    def truncate(self, slot: int, length: int) -> int:
        state = self._sequence(slot)
        checks.check_cut(slot, state.length, length)
        self.commit(slot, ())
        left = self.restorable(slot, length)
        if self._states is not None:
            self._states.restore(slot, state.length, left)
        self._books[self._lane(slot)].give(self._cut(slot, left))
        return left

    def share(self, source: int, target: int, length: int) -> int:
        giver, state = self._sequence(source), self._sequence(target)
        checks.check_share(source, giver.length, length)
        if source == target:
            return self.truncate(target, length)
        self.truncate(target, 0)
        length = self.restorable(source, length)
        if not length:
            return 0
        strip = self._take(self._lane(target), length)
        lane, taken = self._lane(source), giver.places[:length]
        with torch.inference_mode():
            self.cache.copy(Strip(lane, taken, 0), strip)
        if self._states is not None:
            self._states.share(source, target, giver.length, length)
        self._recorder.shared(source, target, length)
        self._place(state, strip)
        return length

    @property
    def unsavable(self) -> str:
        return ""

    @property
    def layout(self) -> str:
        return f"keys and values of {len(self.cache.layers)} layers, {self._dtype}, {self.attention}"

    def copy_bytes(self, slot: int) -> int:
        return copies.size(self.cache.arena_layers, self.length(slot), self._states, slot)

    def save(self, slot: int) -> SlotCopy:
        state = self._sequence(slot)
        self.commit(slot, ())
        places = state.places[: state.length]
        return copies.read(self.cache.arena_layers, self._lane(slot), places, self._states, slot)

    def restore(self, slot: int, copy: SlotCopy, tokens: Sequence[int]) -> int:
        checks.check_copy(copy, tokens, self.context, self.runner.size)
        self.truncate(slot, 0)
        if not copy.length:
            return 0
        held = copies.unpack(copy, self.cache.arena_layers, self._states)
        strip = self._take(self._lane(slot), copy.length)
        self.cache.reserve(strip.keys)
        held.write(self.cache.arena_layers, strip, self._states, slot)
        self._place(self._sequence(slot), strip)
        return copy.length

    def _place(self, state: Slot, strip: Strip) -> None:
        """The strip holds the first tokens of an empty slot."""
        length = len(strip.places)
        self._masks.position_of[strip.lane, strip.places] = np.arange(length)
        state.places[:length] = strip.places
        state.sight[strip.places] = 0.0
        state.length = length

    def close(self) -> None:
        self.runner.model = None
        self.cache.layers.clear()
        self.sequences, self._nodes, self._states, self._mixers = [], {}, None, []
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _sequence(self, slot: int) -> Slot:
        return checks.at(self.sequences, slot)

    def _lay_out(self, apart: bool) -> None:
        """Make an empty arena. apart: with a lane for each slot, else with one for all."""
        self._apart = apart
        lanes = self.slots if apart else 1
        capacity = self.slots // lanes * self.context + self.capacity
        # On a CPU every masked key costs; accelerators prefer aligned and recurring shapes.
        step = 16 if self._device.type == "cpu" else 64
        self._books = [PlaceBook(capacity, step) for _ in range(lanes)]
        self.cache = ArenaCache(self._books)
        self.cache.by_row = self._by_row
        self.sequences = [Slot(self.context, self.cache.span, self._hidden) for _ in range(self.slots)]
        self._nodes = {}
        self._masks = Masks(
            self.sequences, self._nodes, lanes, self.cache.span, self._hidden, self._sight, self._device, self._dtype
        )
        if self._mixers:
            self._states = mixers.attach(self._mixers, self.slots, self._device, self.cache)

    def _lane(self, slot: int) -> int:
        return slot if self._apart else 0

    def _take(self, lane: int, count: int, padding: int = 0) -> Strip:
        book = self._books[lane]
        return Strip(lane, book.take(count), book.keys, padding)

    def _cut(self, slot: int, length: int) -> Places:
        """Cut the committed sequence to `length` tokens. Returns the places of the others, which are still taken."""
        state = self.sequences[slot]
        gone = state.places[length : state.length]
        state.sight[gone] = self._hidden
        state.length = length
        self._recorder.cut(slot, length)
        return gone

    def _prove(self, shared_keys: bool, kind: str) -> None:
        """Find the attention and the form of mask that suit the model (see `proof`), and the number of logits per row.

        shared_keys: query heads share key heads. kind: the model's type. Raises ModelError if nothing suits.
        """
        runner, model = self.runner, self.runner.model
        embeddings = int(model.get_input_embeddings().num_embeddings)
        texts = proof.texts_of(embeddings, min(2, self.slots), min(proof.TOKENS, self.context))
        original = self.attention
        ways = [(original, False)]
        if original == "sdpa" and (shared_keys or self._by_row):
            ways.insert(0, (GROUPED, False))
        if original == "sdpa" and self.slots > 1 and self._device.type == "cpu":
            ways.insert(0, (GROUPED, True))
        failure = ""
        with hf.quiet(), torch.inference_mode():
            try:
                wanted = proof.references(model, texts, self._device)
            except Exception as fault:  # from code that is not ours
                log.debug("transformers: %s", first_line(fault))
                raise ModelError(
                    f"{self.name} ({kind}) does not run in transformers here: use another model, or a GGUF of this one"
                ) from fault
            runner.size = wanted[0].shape[1]
            for (attention, apart), form in product(ways, self._sight.forms):
                runner.form = form
                self._lay_out(apart)
                places = self._books[0].capacity // (1 if apart else len(texts))
                try:
                    if self.attention != attention:
                        model.set_attn_implementation(attention)
                    error = max(
                        proof.error(self, texts[:count], wanted[:count], places) for count in range(1, len(texts) + 1)
                    )
                except Exception as fault:  # a model's code may raise anything over an unknown mask or cache
                    log.debug("transformers: %s", first_line(fault))
                    failure = "its code fails with one"
                    continue
                if error <= proof.TOLERANCE.get(self._dtype, proof.LOOSE_TOLERANCE):
                    self._masks.attends = bool(self.cache.layers)
                    return
                failure = f"its logits are off by {error:.1e}"
        raise ModelError(
            f"{self.name}: the transformers engine cannot run models of type {kind}, which do not take an attention "
            f"mask as plain decoders do ({failure}): use another model or a GGUF of this one"
        )
