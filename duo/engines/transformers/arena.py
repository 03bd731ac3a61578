"""The KV arena of the transformers engine: where a token's keys and values lie, and the memory behind it.

A row owns one *place*, from the forward pass that computes it until it is forgotten. A place is an index into the
sequence axis of every layer's keys and values. Nothing is ever moved. The attention mask says what a row sees, so
branching and forgetting are only bookkeeping.

The arena has one *lane* of places that all slots share, or a lane for each slot. With one lane every row attends over
the places of all slots, most of them masked. That suits accelerators, and any model that takes a mask at all. On a CPU
eight slots would cost eight times as much. So if the model's attention can be replaced, each slot has its own lane, and
its rows attend over that lane alone. Then their logits do not depend on other slots.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from duo.engines.base import InterruptedForwardError
from duo.engines.transformers.attention import LANES, MAX_ROWS_BY_ROW, START
from duo.errors import ContextError

INITIAL_PLACES = 512
"""Places that a layer allocates first. It doubles them when they run out."""

Places = NDArray[np.int64]


def round_up(number: int, step: int) -> int:
    return -(-number // step) * step


class PlaceBook:
    """Hands out places, lowest first, so that a forward pass reads a short part of the arena."""

    def __init__(self, capacity: int, step: int) -> None:
        self.capacity = capacity
        self.step = step
        self.used = 0
        self.top = 0
        """One past the highest place in use."""
        self._low = 0
        """No place below this one is free."""
        self._free = np.ones(capacity, dtype=np.bool_)

    @property
    def keys(self) -> int:
        """Places that a forward pass reads: all up to the highest in use, rounded up to whole steps.

        So tensor shapes recur from call to call, which helps allocators and kernel caches. And the rows of the mask
        stay aligned for fused attention kernels.
        """
        return round_up(self.top, self.step)

    def grow(self, capacity: int) -> None:
        """Have `capacity` places from now on."""
        self._free = np.concatenate((self._free, np.ones(capacity - self.capacity, dtype=np.bool_)))
        self.capacity = capacity

    def take(self, count: int) -> Places:
        """The `count` lowest free places, rising. Raises ContextError if there are fewer."""
        if count > self.capacity - self.used:
            free = self.capacity - self.used
            raise ContextError(f"no room for {count} more tokens: {free} of {self.capacity} places are free")
        if self._low == self.top:
            places = np.arange(self.top, self.top + count, dtype=np.int64)
        else:
            places = np.flatnonzero(self._free[self._low : self.top])[:count] + self._low
            if len(places) < count:
                rest = np.arange(self.top, self.top + count - len(places), dtype=np.int64)
                places = np.concatenate((places, rest))
        if count:
            self._free[places] = False
            self.used += count
            # The lowest free places were taken, so none is left below the last of them.
            self._low = int(places[-1]) + 1
            self.top = max(self.top, self._low)
        return places

    def give(self, places: Sequence[int] | Places) -> None:
        """Take places back."""
        if not len(places):
            return
        freed = np.asarray(places, dtype=np.int64)
        self._free[freed] = True
        self.used -= len(freed)
        self._low = min(self._low, int(freed.min()))
        if self._free[self.top - 1]:
            below = self._free[: self.top][::-1]
            self.top = 0 if not self.used else self.top - int(below.argmin())
            self._low = min(self._low, self.top)


class Strip(NamedTuple):
    """The rows of one forward pass that lie in one lane."""

    lane: int
    places: Places
    """Rising, one for each row."""
    keys: int
    """How many places of the lane the rows attend over."""
    padding: int = 0
    """How many of the last rows nobody reads."""

    @property
    def start(self) -> int:
        """The first of the places if they follow one another, else -1."""
        first, last = int(self.places[0]), int(self.places[-1])
        return first if last - first == len(self.places) - 1 else -1


class ArenaLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, shape [lanes, heads, places allocated, head dimension] each."""

    is_sliding = False

    def __init__(self, cache: ArenaCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._allocated = 0
        self._lanes: list[tuple[Tensor, Tensor]] = []
        """Keys and values of each lane, [1, heads, places allocated, dimension]."""
        self._seen: dict[int, tuple[int, Tensor, Tensor]] = {}
        """For each lane: how many places were last attended over, and their keys and values. They seldom change."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, or allocate more. Heads, dimensions, dtype and device are known from the tensors."""
        places = self._cache.allocated
        self.keys = self._resized(self.keys, key_states, places)
        self.values = self._resized(self.values, value_states, places)
        lanes = range(len(self._cache.books))
        self._lanes = [(self.keys[lane : lane + 1], self.values[lane : lane + 1]) for lane in lanes]
        self._seen.clear()
        self._allocated = places
        self.is_initialized = True

    def _resized(self, old: Tensor | None, like: Tensor, places: int) -> Tensor:
        books = self._cache.books
        new = _zeros((len(books), like.shape[1], places, like.shape[3]), like)
        if old is not None:
            # Copy only what is in use. To copy more would make the memory of idle lanes real.
            for lane, book in enumerate(books):
                used = min(book.top, self._allocated)
                new[lane, :, :used] = old[lane, :, :used]
        return new

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new rows, [1, heads, rows, dimension], to their places. Returns the visible part of the arena.

        If the rows lie in several lanes, returns the new keys and values. What to attend over is then an attribute of
        the keys, for `grouped_attention`.
        """
        cache = self._cache
        if cache.allocated != self._allocated:
            self.lazy_initialization(key_states, value_states)
        if cache.strips:
            return self._update_lanes(key_states, value_states)
        keys, values = self._lanes[cache.lane]
        if cache.start >= 0:
            # For a few rows as fast as the indexed copy, for a prefill several times faster.
            keys.narrow(2, cache.start, cache.rows).copy_(key_states)
            values.narrow(2, cache.start, cache.rows).copy_(value_states)
        else:
            keys.index_copy_(2, cache.places, key_states)
            values.index_copy_(2, cache.places, value_states)
        seen = keys.narrow(2, 0, cache.keys)
        if cache.goes_by_row:
            setattr(seen, START, [(cache.start, cache.padding)])
        return seen, values.narrow(2, 0, cache.keys)

    def _update_lanes(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        where = self._cache.where(key_states.shape[1])
        for arena, new in ((self.keys, key_states), (self.values, value_states)):
            arena.view(-1, new.shape[3]).index_copy_(0, where, new.reshape(-1, new.shape[3]))
        visible = []
        for strip in self._cache.strips:
            known = self._seen.get(strip.lane)
            if known is None or known[0] != strip.keys:
                keys, values = self._lanes[strip.lane]
                known = (strip.keys, keys.narrow(2, 0, strip.keys), values.narrow(2, 0, strip.keys))
                self._seen[strip.lane] = known
            visible.append(known)
        setattr(key_states, LANES, visible)
        if self._cache.goes_by_row:
            setattr(key_states, START, [(strip.start, strip.padding) for strip in self._cache.strips])
        return key_states, value_states

    def copy(self, source: Strip, target: Strip) -> None:
        """Copy keys and values from the source's places, in any order, to as many places of the target."""
        if not self._allocated:
            return
        assert self.keys is not None and self.values is not None
        if self._cache.allocated != self._allocated:
            self.lazy_initialization(self.keys, self.values)
        count = len(source.places)
        # After accepted guesses the places of tokens are not in order. So the first and last place are not enough.
        if target.start >= 0 and (count == 1 or bool((np.diff(source.places) == 1).all())):
            for old, new in zip(self._lanes[source.lane], self._lanes[target.lane], strict=True):
                new.narrow(2, target.start, count).copy_(old.narrow(2, source.start, count))
            return
        device = self.keys.device
        taken, given = (torch.from_numpy(strip.places).to(device) for strip in (source, target))
        for old, new in zip(self._lanes[source.lane], self._lanes[target.lane], strict=True):
            new.index_copy_(2, given, old.index_select(2, taken))

    def read(self, lane: int, places: Places) -> Sequence[Tensor]:
        """Copies of the keys and values at these places, [heads, places, dimension] each; none if it has none."""
        if not self._allocated:
            return ()
        at = torch.from_numpy(places).to(self._lanes[lane][0].device)
        return [each[0].index_select(1, at) for each in self._lanes[lane]]

    def shapes(self, places: int) -> Sequence[tuple[Sequence[int], torch.dtype]]:
        """The shapes and types of what `read` gives for so many places."""
        if not self._allocated:
            return ()
        return [([each.shape[1], places, each.shape[3]], each.dtype) for each in self._lanes[0]]

    def write(self, strip: Strip, given: Sequence[Tensor]) -> None:
        """Put keys and values, as `read` gives them, at the strip's places."""
        if not self._allocated:
            return
        assert self.keys is not None and self.values is not None
        if self._cache.allocated != self._allocated:
            self.lazy_initialization(self.keys, self.values)
        at = torch.from_numpy(strip.places).to(self.keys.device)
        for old, new in zip(self._lanes[strip.lane], given, strict=True):
            old[0].index_copy_(1, at, new.to(old.device))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.keys, 0

    def get_seq_length(self) -> int:
        return self._cache.get_seq_length()

    def get_max_length(self) -> int:
        return self._cache.span


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros. Masked places are multiplied by zero, so what lies there must be finite."""
    if shape[0] == 1 or like.device.type != "cpu":
        return like.new_zeros(shape)
    # Torch writes its zeros, which makes every page real at once. These pages become real when a lane is first used.
    count = int(np.prod(shape))
    return torch.frombuffer(mmap.mmap(-1, count * like.element_size()), dtype=like.dtype).view(shape)


class ArenaCache(Cache):
    """What a transformers model takes as `past_key_values`. The engine aims it before each forward pass."""

    def __init__(self, books: Sequence[PlaceBook]) -> None:
        super().__init__(layers=[])
        self.books = books
        """One for each lane."""
        self.span = round_up(books[0].capacity, books[0].step)
        """Places that a lane can grow to."""
        self.allocated = 0
        """Places that each lane has now."""
        self.lane = 0
        self.places = torch.empty(0, dtype=torch.long)
        self.start = -1
        self.padding = 0
        self.keys = 0
        self.rows = 0
        self.strips: Sequence[Strip] = ()
        """Where the rows go if they lie in several lanes, side by side in this order; else empty."""
        self.interrupted = False
        """Whether the forward pass must end at the next layer."""
        self.by_row = False
        """Whether each row of a narrow pass attends by itself (see `attention`)."""
        self._where: dict[int, Tensor] = {}

    def aim(self, strip: Strip, places: Tensor) -> None:
        """The next forward pass has its rows in one lane. `places` [rows] are the strip's, on the model's device."""
        self.strips = ()
        self.lane = strip.lane
        self.places = places
        self.start = strip.start
        self.padding = strip.padding
        self._expect(strip.keys, len(strip.places))

    def aim_lanes(self, strips: Sequence[Strip]) -> None:
        """The next forward pass has its rows in several lanes."""
        self.strips = strips
        self._where.clear()
        self._expect(max(strip.keys for strip in strips), sum(len(strip.places) for strip in strips))

    def _expect(self, keys: int, rows: int) -> None:
        self.keys = keys
        self.rows = rows
        self.reserve(keys)
        self.interrupted = False

    @property
    def goes_by_row(self) -> bool:
        """Whether the rows of this pass attend one by one. Each lane must have few, in successive places."""
        if not self.by_row:
            return False
        if not self.strips:
            return self.start >= 0 and self.rows <= MAX_ROWS_BY_ROW
        return all(strip.start >= 0 and len(strip.places) <= MAX_ROWS_BY_ROW for strip in self.strips)

    @property
    def arena_layers(self) -> list[ArenaLayer]:
        return [layer for layer in self.layers if isinstance(layer, ArenaLayer)]

    def reserve(self, keys: int) -> None:
        """Let each lane have at least `keys` places, from the next use of each layer on."""
        if keys > self.allocated:
            self.allocated = min(max(INITIAL_PLACES, 1 << (keys - 1).bit_length()), self.span)

    def where(self, heads: int) -> Tensor:
        """Where the rows of several lanes go, [heads * rows], if a layer is [lanes * heads * allocated, dimension]."""
        known = self._where.get(heads)
        if known is None:
            places = np.concatenate([strip.lane * heads * self.allocated + strip.places for strip in self.strips])
            known = torch.from_numpy((places + self.allocated * np.arange(heads)[:, None]).ravel())
            self._where[heads] = known
        return known

    def copy(self, source: Strip, target: Strip) -> None:
        """Copy the keys and values of the source's places, in all layers, to as many places of the target."""
        self.reserve(target.keys)
        for layer in self.layers:
            assert isinstance(layer, ArenaLayer)
            layer.copy(source, target)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        # Layers are made as the model reaches them, for not every model counts them as its config does.
        if self.interrupted:
            raise InterruptedForwardError
        layers: list[Any] = self.layers
        while len(layers) <= layer_idx:
            layers.append(ArenaLayer(self))
        layer: ArenaLayer = layers[layer_idx]
        return layer.update(key_states, value_states)

    # What recurrent layers ask of a cache. Their memory lies elsewhere (see `states`). An empty one makes them take all
    # rows through their form for many rows.

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> None:
        return None

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> None:
        return None

    def is_recording_past(self, layer_idx: int) -> bool:
        return False

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return False

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any) -> Tensor:
        return conv_states

    def update_recurrent_state(  # type: ignore[override]
        self, recurrent_states: Any, layer_idx: int, **kwargs: Any
    ) -> Any:
        return recurrent_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        # Positions that are counted from here are wrong; the engine passes the right ones explicitly. Small ones stay
        # below the positions where models begin to scale.
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.keys, 0
