"""The KV arena of the transformers engine: which place a token's keys and values have, and the memory behind it.

Every slot has a *lane* of the arena, for its committed tokens and its uncommitted rows. A row owns one *place* there,
an index into the sequence axis of every layer's key and value tensors, from the forward pass that computes it until it
is forgotten; nothing is ever moved. What a row may see of its lane is the attention mask's business, so branching and
forgetting are bookkeeping. Rows of several slots share a forward pass, and in its attention the lanes are the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from duo.engines.base import InterruptedForwardError
from duo.errors import ContextError

FIRST = 512
"""Places that a layer allocates at first; it doubles them when they run out."""

Places = NDArray[np.int64]


def round_up(number: int, step: int) -> int:
    return -(-number // step) * step


class PlaceBook:
    """Hands out places, lowest first, so that the part of the arena that a forward pass must read stays short."""

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
        """How many places a forward pass must read: all up to the highest in use, rounded up to whole steps.

        Rounded so that tensor shapes recur from call to call, which memory allocators and kernel caches reward, and so
        that the mask's rows stay aligned for fused attention kernels.
        """
        return round_up(self.top, self.step)

    def take(self, count: int) -> Places:
        """The `count` lowest free places, in rising order. Raises ContextError if there are fewer."""
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


class ArenaLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, shape [heads, lanes, places allocated, head dimension] each."""

    is_sliding = False

    def __init__(self, cache: ArenaCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._room = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate, or allocate more, now that heads, dimensions, dtype and device are known."""
        self.keys = self._resized(self.keys, key_states)
        self.values = self._resized(self.values, value_states)
        self._room = self._cache.room
        self.is_initialized = True

    def _resized(self, old: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        # Zeros, since masked places are multiplied by zero: what lies there must be finite. A lane that has never been
        # used costs no memory, as long as nobody writes even zeros there.
        cache = self._cache
        new = like.new_zeros((like.shape[1], cache.lanes, cache.room, like.shape[3]))
        if old is not None:
            for lane in cache.used:
                new[:, lane, : self._room] = old[:, lane]
        return new

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new rows, [1, heads, rows, dimension], to their places; return what they may see.

        For one lane that is the visible part of it, [1, heads, keys, dimension]. For several it is all of them,
        [lanes, heads, places, dimension], for an attention function that knows lanes, or what they hold side by side,
        [1, heads, keys of all, dimension], for one that does not.
        """
        cache = self._cache
        if cache.room > self._room:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        if cache.lane >= 0:
            own_keys, own_values = keys[:, cache.lane], values[:, cache.lane]
            if cache.start >= 0:
                # As fast as the indexed copy for a few rows, and several times faster for a prefill.
                own_keys.narrow(1, cache.start, cache.rows).copy_(key_states[0])
                own_values.narrow(1, cache.start, cache.rows).copy_(value_states[0])
            else:
                own_keys.index_copy_(1, cache.places, key_states[0])
                own_values.index_copy_(1, cache.places, value_states[0])
            return own_keys.narrow(1, 0, cache.keys)[None], own_values.narrow(1, 0, cache.keys)[None]
        keys.flatten(1, 2).index_copy_(1, cache.places, key_states[0])
        values.flatten(1, 2).index_copy_(1, cache.places, value_states[0])
        if not cache.beside:
            return keys.transpose(0, 1), values.transpose(0, 1)
        beside = [
            torch.cat([lanes[:, lane, :count] for lane, count in cache.beside], dim=1)[None] for lanes in (keys, values)
        ]
        return beside[0], beside[1]

    def copy(self, source: int, places: torch.Tensor, target: int) -> None:
        """Copy what lies at these places of one lane to the first places of another."""
        for lanes in (self.keys, self.values):
            assert lanes is not None
            lanes[:, target, : len(places)] = lanes[:, source].index_select(1, places)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.keys, 0

    def get_seq_length(self) -> int:
        # Only consistent with get_mask_sizes: the positions that matter are passed explicitly.
        return self._cache.keys - self._cache.rows

    def get_max_length(self) -> int:
        return self._cache.span


class ArenaCache(Cache):
    """What a transformers model takes as `past_key_values`. It is told before each forward pass where its rows go."""

    def __init__(self, span: int, lanes: int) -> None:
        super().__init__(layers=[])
        self.span = span
        """Most places that a lane of a layer ever has."""
        self.lanes = lanes
        self.used: set[int] = set()
        """Lanes that have ever been written to."""
        self.room = 0
        """Places that a lane has by now."""
        self.lane = 0
        """Where all rows of the next forward pass go; -1: to several."""
        self.places = torch.empty(0, dtype=torch.long)
        self.start = -1
        self.keys = 0
        self.rows = 0
        self.beside: Sequence[tuple[int, int]] = ()
        self.interrupted = False
        """Whether the forward pass is to end at the next layer."""

    def aim(self, lane: int, places: torch.Tensor, start: int, keys: int) -> None:
        """The next forward pass writes its rows to `places` [rows] of a lane and reads the first `keys` places there.

        `start` is the first of the places if they follow one another, else -1.
        """
        self._grow(keys)
        self.used.add(lane)
        self.lane, self.start, self.beside = lane, start, ()
        self.places, self.keys, self.rows = places, keys, places.shape[0]
        self.interrupted = False

    def aim_at_many(
        self, lanes: torch.Tensor, places: torch.Tensor, used: Collection[int], keys: int,
        beside: Sequence[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        """The next forward pass writes its rows to `places` [rows] of `lanes` [rows], which are those `used`, and reads
        at most the first `keys` places of each. `beside`: lanes, and how many places of each, to be put side by side
        for an attention function that does not know lanes."""
        self._grow(keys)
        self.used.update(used)
        self.lane, self.beside = -1, beside
        self.places = lanes * self.room + places
        self.keys = sum(count for _, count in beside) or keys
        self.rows = places.shape[0]
        self.interrupted = False

    def copy(self, source: int, places: torch.Tensor, target: int) -> None:
        """In every layer, copy what lies at these places of one lane to the first places of another."""
        self.used.add(target)
        layers: list[Any] = self.layers
        for layer in layers:
            layer.copy(source, places, target)

    def _grow(self, keys: int) -> None:
        if keys > self.room:
            self.room = min(max(FIRST, 1 << (keys - 1).bit_length()), self.span)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Layers appear as the model reaches them, since not every model counts them as its config does.
        if self.interrupted:
            raise InterruptedForwardError
        layers: list[Any] = self.layers
        while len(layers) <= layer_idx:
            layers.append(ArenaLayer(self))
        layer: ArenaLayer = layers[layer_idx]
        return layer.update(key_states, value_states)


class Strip(NamedTuple):
    """Neighbouring lanes whose rows one call of the attention serves."""

    first: int
    """The first of the lanes."""
    rows: torch.Tensor | None
    """Which rows of the forward pass; None: all of them, one for each lane, in the order of the lanes."""
    lanes: torch.Tensor
    """For each of these rows its lane, counted from `first`."""
    lines: torch.Tensor
    """And which it is of its lane's rows."""
    mask: torch.Tensor
    """[lanes, 1, most rows of a lane, keys]"""


LANES = "duo_lanes"
"""The attribute of an attention mask that holds the strips of a forward pass over several lanes."""

GROUPED = "duo_grouped"
"""Name of `grouped_attention` among the library's attention functions."""


_SPECIAL = ("softcap", "s_aux", "position_bias", "cache")
"""What some models ask of their attention and only the library's own function knows."""


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention with fewer key heads than query heads, without copying keys and values for every query head.

    query [1, heads, rows, dim], key and value [1, key heads, keys, dim], mask [1, 1, rows, keys] -> [1, rows, heads,
    dim]. The library's own function repeats keys and values until every query head has its own, in every layer and for
    the whole context; with 4 query heads to a key head and 4,096 tokens of context that takes twelve times as long
    as the attention itself. Here the rows of the query heads that share a key head simply become more rows of it.
    """
    groups = query.shape[1] // key.shape[1]
    strips: Sequence[Strip] | None = getattr(attention_mask, LANES, None)
    if strips is not None:
        return _by_lanes(query, key, value, strips, groups, **options)
    special = any(options.get(name) is not None for name in _SPECIAL)
    if special or groups == 1 or attention_mask is None or attention_mask.shape[:2] != (1, 1) or query.shape[0] != 1:
        return _stock_attention(module, query, key, value, attention_mask, **options)
    heads, width = query.shape[1], query.shape[2]
    folded = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(1, key.shape[1], groups * width, query.shape[3]),
        key,
        value,
        attn_mask=_tiled(attention_mask, groups),
        scale=options.get("scaling"),
    )
    return folded.reshape(1, heads, width, value.shape[3]).transpose(1, 2).contiguous(), None


def _by_lanes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, strips: Sequence[Strip], groups: int, **options: Any
) -> tuple[torch.Tensor, None]:
    """Rows of several lanes, each of which sees its own lane only: the lanes are the batch of the attention.

    query [1, heads, rows, dim], key and value [lanes, key heads, places, dim] -> [1, rows, heads, dim]. Masking each
    other's keys instead would cost every row the attention over the keys of all.
    """
    if any(options.get(name) is not None for name in _SPECIAL):
        raise NotImplementedError("this attention does not know lanes")
    heads, width, dim = query.shape[1:]
    rows = query[0].transpose(0, 1)
    whole = strips[0].rows is None
    out = None if whole else query.new_empty((1, width, heads, value.shape[3]))
    for strip in strips:
        count, _, height, keys = strip.mask.shape
        if whole:
            asked = rows.reshape(count, key.shape[1], groups, dim)
        else:
            padded = query.new_zeros((count, height, heads, dim))
            padded[strip.lanes, strip.lines] = rows[strip.rows]
            asked = padded.transpose(1, 2).reshape(count, key.shape[1], groups * height, dim)
        got = torch.nn.functional.scaled_dot_product_attention(
            asked,
            key[strip.first : strip.first + count, :, :keys],
            value[strip.first : strip.first + count, :, :keys],
            attn_mask=_tiled(strip.mask, groups),
            scale=options.get("scaling"),
        )
        if whole:
            return got.reshape(1, width, heads, value.shape[3]), None
        assert out is not None and strip.rows is not None
        got = got.reshape(count, heads, height, value.shape[3]).transpose(1, 2)
        out[0, strip.rows] = got[strip.lanes, strip.lines]
    assert out is not None
    return out, None


def _tiled(mask: torch.Tensor, groups: int) -> torch.Tensor:
    """The mask once for each of the groups, [..., groups * rows, keys]. Kept on the mask for the layers to come."""
    width = mask.shape[2]
    if width == 1 or groups == 1:
        return mask
    known: torch.Tensor | None = getattr(mask, GROUPED, None)
    if known is None or known.shape[2] != groups * width:
        known = mask.repeat(1, 1, groups, 1)
        setattr(mask, GROUPED, known)
    return known


_functions: Any = AttentionInterface
_masks: Any = AttentionMaskInterface
_stock_attention: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = _functions()["sdpa"]
_functions.register(GROUPED, grouped_attention)
# For calls that bring no mask of their own: what goes with the stock function goes with this one.
_masks.register(GROUPED, _masks()["sdpa"])
