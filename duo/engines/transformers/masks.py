"""Composes forward passes: the token and position of every row, and a mask of the keys that it sees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from duo.engines import checks
from duo.engines.base import ROOT, Chunk, Row
from duo.engines.transformers.arena import Places, Strip
from duo.engines.transformers.attention import LANES
from duo.engines.transformers.loading import Sight
from duo.errors import ContextError

Mask = NDArray[np.float32]
"""Shape [rows, keys]: 0 if a row sees a key, else the most negative number."""


class Slot:
    """One sequence: where its committed tokens lie, and its live rows."""

    __slots__ = ("length", "places", "rows", "sight")

    def __init__(self, context: int, keys: int, hidden: float) -> None:
        self.length = 0
        self.places: Places = np.zeros(context, dtype=np.int64)
        """Places of the committed tokens, in order. Only the first `length` count."""
        self.sight: Mask = np.full(keys, hidden, dtype=np.float32)
        """The mask row that every row of the slot starts from: 0 at places of committed tokens, hidden elsewhere."""
        self.rows: set[int] = set()


class Node:
    """A live row."""

    __slots__ = ("index", "memory", "parent", "position", "slot", "trail")

    def __init__(self, slot: int, parent: int, position: int) -> None:
        self.slot = slot
        self.parent = parent
        self.position = position
        self.index = 0
        """Its row in the mask of the forward pass that made it."""
        self.trail: list[int] = []
        """Places of its live ancestors, from the committed sequence downwards, and of itself."""
        self.memory: list[int] = []
        """The same places in the memory of recurrent layers, if the model has any."""


def admit(
    rows: Sequence[Row],
    chunks: Sequence[Chunk],
    slots: Sequence[Slot],
    live: Mapping[int, Node],
    vocabulary: int,
    context: int,
) -> dict[int, Node]:
    """Check the rows and chunks of a forward pass, and give each row its position. Nothing changes yet.

    Raises ValueError for a mistake of the caller, and ContextError for what does not fit.
    """
    lengths: dict[int, int] = {}
    for slot, tokens, _ in chunks:
        state = checks.at(slots, slot)
        checks.check_chunk(slot, tokens, slot in lengths or bool(state.rows), vocabulary)
        lengths[slot] = state.length + len(tokens)
        checks.check_context(lengths[slot], context)
    checks.check_rows(rows, live, vocabulary)
    fresh: dict[int, Node] = {}
    for id, slot, _, parent, _ in rows:
        if parent == ROOT:
            position = lengths[slot] if slot in lengths else checks.at(slots, slot).length
        else:
            above = fresh.get(parent) or live.get(parent)
            if above is None or above.slot != slot:
                raise ValueError(f"row {id}: parent {parent} is not a live row of slot {slot}")
            position = above.position + 1
        if position >= context:
            raise ContextError(f"position {position} is beyond the context of {context} tokens")
        fresh[id] = Node(slot, parent, position)
    return fresh


class Part:
    """The part of a forward pass in one lane: chunks of prompts, then rows, by their indices."""

    __slots__ = ("chunks", "padding", "rows", "width")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.rows: list[int] = []
        self.width = 0
        self.padding = 0
        """How many of the rows are padding."""


def split(rows: Sequence[Row], chunks: Sequence[Chunk], lane: Callable[[int], int]) -> Sequence[tuple[int, Part]]:
    """The part of a forward pass in each lane, in the order of the lanes."""
    parts: defaultdict[int, Part] = defaultdict(Part)
    for chunk in chunks:
        part = parts[lane(chunk.slot)]
        part.chunks.append(chunk)
        part.width += len(chunk.tokens)
    for index, row in enumerate(rows):
        part = parts[lane(row.slot)]
        part.rows.append(index)
        part.width += 1
        part.padding += row.padding
    return sorted(parts.items())


class Composed(NamedTuple):
    """A forward pass: all its strips side by side."""

    tokens: list[int]
    positions: list[int]
    masks: list[Mask]
    """One for each strip."""
    wanted: list[int]
    """The index of each row among all these."""
    spans: list[tuple[int, int, int]]
    """For each chunk its slot, and where it begins and ends."""


class Masks:
    """Draws the masks of one arena. hidden: the number that hides a key."""

    def __init__(
        self,
        slots: Sequence[Slot],
        nodes: Mapping[int, Node],
        lanes: int,
        keys: int,
        hidden: float,
        sight: Sight,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.attends = True
        """Whether the model has attention. If not, nothing is drawn."""
        self._slots = slots
        self._nodes = nodes
        self._hidden = hidden
        self._sight = sight
        self._device = device
        self._dtype = dtype
        self._memory: Mask = np.zeros(0, dtype=np.float32)
        self._windowed_memory: Mask = np.zeros(0, dtype=np.float32)
        self.position_of = np.zeros((lanes, keys), dtype=np.int64)
        """Position of the token in each place of each lane. Only models with a sliding window need it."""

    def compose(
        self,
        rows: Sequence[Row],
        fresh: Mapping[int, Node],
        parts: Sequence[tuple[int, Part]],
        strips: Sequence[Strip],
    ) -> Composed:
        """Compose a pass over rows and chunks, and commit the chunks."""
        done = Composed([], [], [], [0] * len(rows), [])
        widths = [strip.keys if self.attends else 0 for strip in strips]
        memory = self._reserve(sum(part.width * keys for (_, part), keys in zip(parts, widths, strict=True)))
        begin = 0
        for (_, part), strip, keys in zip(parts, strips, widths, strict=True):
            mask = memory[begin : begin + part.width * keys].reshape(part.width, keys)
            begin += mask.size
            at = 0
            for slot, tokens, _ in part.chunks:
                end = at + len(tokens)
                done.spans.append((slot, len(done.tokens), len(done.tokens) + len(tokens)))
                done.tokens.extend(tokens)
                done.positions.extend(range(self._slots[slot].length, self._slots[slot].length + len(tokens)))
                self._commit(slot, strip.places[at:end], mask[at:end])
                at = end
            nodes = [fresh[rows[index].id] for index in part.rows]
            self._draw(fresh, nodes, strip.places[at:].tolist(), mask[at:])
            for index, node in zip(part.rows, nodes, strict=True):
                done.wanted[index] = len(done.tokens)
                done.tokens.append(rows[index].token)
                done.positions.append(node.position)
            done.masks.append(mask)
        return done

    def windowed(self, masks: Sequence[Mask], positions: Places, strips: Sequence[Strip]) -> list[Mask]:
        """The masks of layers with a limited sight. positions: of the rows of all strips, side by side."""
        done, begin, end = list(masks), 0, 0
        for index, (strip, mask) in enumerate(zip(strips, masks, strict=True)):
            mine = positions[begin : begin + len(mask)]
            done[index] = self._behind(mask, mine, strip, self._windowed_memory[end:])
            begin, end = begin + len(mask), end + mask.size
        return done

    def tensors(self, masks: Sequence[Mask]) -> torch.Tensor | None:
        """The masks as the model takes them, [1, 1, rows, keys].

        Masks of several lanes travel as an attribute of a mask that says only how many rows there are.
        """
        if not self.attends:
            return None
        if len(masks) == 1:
            return self._tensor(masks[0])
        carrier = torch.zeros((1, 1, sum(map(len, masks)), 1), dtype=self._dtype)
        setattr(carrier, LANES, [self._tensor(mask) for mask in masks])
        return carrier

    def _commit(self, slot: int, places: Places, mask: Mask) -> None:
        """Append a chunk, which is a chain: its mask is the slot's and a triangle."""
        state, count = self._slots[slot], len(places)
        if self.attends:
            mask[:] = state.sight[: mask.shape[1]]
            mask[:, places] = np.triu(np.full((count, count), self._hidden, dtype=np.float32), 1)
        state.places[state.length : state.length + count] = places
        state.sight[places] = 0.0
        state.length += count

    def _draw(self, fresh: Mapping[int, Node], nodes: Sequence[Node], places: Sequence[int], mask: Mask) -> None:
        """Draw the mask rows of new rows from their ancestry, and fill in their trails."""
        keys = mask.shape[1]
        for index, (node, place, row) in enumerate(zip(nodes, places, mask, strict=True)):
            node.index = index
            parent = node.parent
            above = None if parent == ROOT else fresh.get(parent)
            old = self._nodes[parent] if above is None and parent != ROOT else None
            node.trail = [*(above or old or _TOP).trail, place]
            if not self.attends:
                continue
            if above is not None:
                row[:] = mask[above.index]
            else:
                row[:] = self._slots[node.slot].sight[:keys]
                if old is not None:
                    row[old.trail] = 0.0
            row[place] = 0.0

    def _reserve(self, size: int) -> Mask:
        """Uninitialised memory for masks. With sliding windows there is as much for the windowed masks."""
        if self._memory.size < size:
            # The small masks of decoding grow a little every few tokens, so they get twice as much.
            reserved = max(size, min(2 * size, 1 << 20))
            self._memory = np.empty(reserved, dtype=np.float32)
            self._windowed_memory = np.empty(reserved if self._sight.window else 0, dtype=np.float32)
        return self._memory

    def _behind(self, mask: Mask, positions: Places, strip: Strip, memory: Mask) -> Mask:
        """The mask with keys before the window or chunk hidden too; the mask itself if that changes nothing."""
        position_of = self.position_of[strip.lane]
        position_of[strip.places] = positions
        size = self._sight.window
        horizon = positions - positions % size - 1 if self._sight.chunked else positions - size
        if int(horizon.max()) < 0:
            return mask
        windowed = memory[: mask.size].reshape(mask.shape)
        windowed[:] = mask
        windowed[position_of[: strip.keys] <= horizon[:, None]] = self._hidden
        return windowed

    def _tensor(self, mask: Mask) -> torch.Tensor:
        return torch.from_numpy(mask)[None, None].to(device=self._device, dtype=self._dtype)


_TOP = Node(0, ROOT, 0)
"""The parent of rows that hang from the committed sequence. It has no trail."""
