"""What every row of a forward pass is, and which keys it sees: tokens, positions and masks out of ancestry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from duo.engines.base import ROOT, Chunk, Row
from duo.engines.transformers.arena import Places, Strip
from duo.engines.transformers.attention import LANES
from duo.engines.transformers.loading import Sight
from duo.errors import ContextError

Mask = NDArray[np.float32]
"""Shape [rows, keys]: 0 where a row sees a key, the most negative number elsewhere."""


class Slot:
    """One sequence: where its committed tokens lie, and which rows hang from it."""

    __slots__ = ("length", "places", "rows", "sight")

    def __init__(self, context: int, keys: int, hidden: float) -> None:
        self.length = 0
        self.places: Places = np.zeros(context, dtype=np.int64)
        """Places of the committed tokens, in order; the first `length` count."""
        self.sight: Mask = np.full(keys, hidden, dtype=np.float32)
        """The mask row that every row of the slot starts from: 0 at the committed tokens' places, hidden elsewhere."""
        self.rows: set[int] = set()


class Node:
    """A live row."""

    __slots__ = ("index", "memory", "parent", "position", "slot", "trail")

    def __init__(self, slot: int, parent: int, position: int) -> None:
        self.slot = slot
        self.parent = parent
        self.position = position
        self.index = 0
        """Which row of its mask it had in the forward pass that made it."""
        self.trail: list[int] = []
        """Places of its uncommitted ancestors, from the committed sequence downwards, and of itself, the last."""
        self.memory: list[int] = []
        """The same in the memory of recurrent layers, if the model has any."""


def slot_of(slots: Sequence[Slot], slot: int) -> Slot:
    if not 0 <= slot < len(slots):
        raise ValueError(f"slot {slot} is not in 0..{len(slots) - 1}")
    return slots[slot]


def admit(
    rows: Sequence[Row],
    chunks: Sequence[Chunk],
    slots: Sequence[Slot],
    live: Mapping[int, Node],
    size: int,
    context: int,
) -> dict[int, Node]:
    """Check the rows and pieces of a forward pass, and give each row its position; nothing changes yet.

    `size`: of the vocabulary. Raises ValueError for what may never be, and ContextError for what does not fit.
    """
    lengths: dict[int, int] = {}
    for slot, tokens, _ in chunks:
        state = slot_of(slots, slot)
        if slot in lengths or state.rows:
            raise ValueError(f"slot {slot} cannot take a piece: it has rows or another one")
        if not len(tokens) or min(tokens) < 0 or max(tokens) >= size:
            raise ValueError(f"a piece is empty, or has a token that is not in 0..{size - 1}")
        lengths[slot] = state.length + len(tokens)
        if lengths[slot] > context:
            raise ContextError(f"{lengths[slot]} tokens do not fit the context of {context}")
    fresh: dict[int, Node] = {}
    for id, slot, token, parent in rows:
        if id < 0 or id in live or id in fresh:
            raise ValueError(f"row id {id} is negative or already in use")
        if not 0 <= token < size:
            raise ValueError(f"token {token} is not in 0..{size - 1}")
        if parent == ROOT:
            position = lengths[slot] if slot in lengths else slot_of(slots, slot).length
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
    """What of a forward pass lies in one lane: pieces of prompts, then rows, given by their numbers."""

    __slots__ = ("chunks", "rows", "width")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.rows: list[int] = []
        self.width = 0


def split(rows: Sequence[Row], chunks: Sequence[Chunk], lane: Callable[[int], int]) -> Sequence[tuple[int, Part]]:
    """What of a forward pass lies in which lane, in the order of the lanes."""
    parts: defaultdict[int, Part] = defaultdict(Part)
    for chunk in chunks:
        part = parts[lane(chunk.slot)]
        part.chunks.append(chunk)
        part.width += len(chunk.tokens)
    for index, row in enumerate(rows):
        part = parts[lane(row.slot)]
        part.rows.append(index)
        part.width += 1
    return sorted(parts.items())


class Composed(NamedTuple):
    """A forward pass: all its strips side by side."""

    tokens: list[int]
    positions: list[int]
    masks: list[Mask]
    """One for each strip."""
    wanted: list[int]
    """Which of all these each row is."""
    spans: list[tuple[int, int, int]]
    """For each piece its slot, and where it begins and ends."""


class Masks:
    """Draws the masks of one arena."""

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
        """Whether the model has attention at all. If not, nothing is drawn."""
        self._slots = slots
        self._nodes = nodes
        self._hidden = hidden
        self._sight = sight
        self._device = device
        self._dtype = dtype
        self._memory: Mask = np.zeros(0, dtype=np.float32)
        self._windowed_memory: Mask = np.zeros(0, dtype=np.float32)
        self.position_of = np.zeros((lanes, keys), dtype=np.int64)
        """Position of what lies in a lane's place; read only for models with a sliding window."""

    def compose(
        self,
        rows: Sequence[Row],
        fresh: Mapping[int, Node],
        parts: Sequence[tuple[int, Part]],
        strips: Sequence[Strip],
    ) -> Composed:
        """The pass over those rows and pieces. The pieces are committed on the way."""
        done = Composed([], [], [], [0] * len(rows), [])
        widths = [strip.keys if self.attends else 0 for strip in strips]
        memory = self._room(sum(part.width * keys for (_, part), keys in zip(parts, widths, strict=True)))
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
        """The masks of layers that do not see all; `positions` are those of all the strips' rows, side by side."""
        done, begin, end = list(masks), 0, 0
        for index, (strip, mask) in enumerate(zip(strips, masks, strict=True)):
            mine = positions[begin : begin + len(mask)]
            done[index] = self._behind(mask, mine, strip, self._windowed_memory[end:])
            begin, end = begin + len(mask), end + mask.size
        return done

    def tensors(self, masks: Sequence[Mask]) -> torch.Tensor | None:
        """The masks as the model wants them, [1, 1, rows, keys]. Those of several lanes travel through the model on one
        that only says how many rows there are."""
        if not self.attends:
            return None
        if len(masks) == 1:
            return self._tensor(masks[0])
        carrier = torch.zeros((1, 1, sum(map(len, masks)), 1), dtype=self._dtype)
        setattr(carrier, LANES, [self._tensor(mask) for mask in masks])
        return carrier

    def _commit(self, slot: int, places: Places, mask: Mask) -> None:
        """Append a piece, which is a chain: its mask is the slot's own and a triangle."""
        state, count = self._slots[slot], len(places)
        if self.attends:
            mask[:] = state.sight[: mask.shape[1]]
            mask[:, places] = np.triu(np.full((count, count), self._hidden, dtype=np.float32), 1)
        state.places[state.length : state.length + count] = places
        state.sight[places] = 0.0
        state.length += count

    def _draw(self, fresh: Mapping[int, Node], nodes: Sequence[Node], places: Sequence[int], mask: Mask) -> None:
        """Draw the mask of some of the fresh rows, from ancestry; fills in their trails on the way."""
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

    def _room(self, size: int) -> Mask:
        """Uninitialised memory for the masks and, where the model has windows, as much for the windowed ones."""
        if self._memory.size < size:
            # Twice as much for the small masks of decoding, which grow a little every few tokens; not for a prefill's.
            room = max(size, min(2 * size, 1 << 20))
            self._memory = np.empty(room, dtype=np.float32)
            self._windowed_memory = np.empty(room if self._sight.window else 0, dtype=np.float32)
        return self._memory

    def _behind(self, mask: Mask, positions: Places, strip: Strip, memory: Mask) -> Mask:
        """The mask with keys before the window or the chunk hidden too; the mask itself where that changes nothing."""
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
"""The parent of rows that hang from the committed sequence: it has no trail."""
