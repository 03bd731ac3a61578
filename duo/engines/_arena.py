"""The KV arena of the transformers engine: which place a token's keys and values have, and the memory behind it.

All slots and all uncommitted rows share one arena. A row owns one *place*, an index into the sequence axis of every
layer's key and value tensors, from the forward pass that computes it until it is forgotten; nothing is ever moved. What
a row may see is the attention mask's business, so branching, several slots in one batch and forgetting are bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    """Keys and values of one layer, shape [1, heads, places allocated, head dimension] each."""

    is_sliding = False

    def __init__(self, cache: ArenaCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._room = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate, or allocate more, now that heads, dimensions, dtype and device are known."""
        cache = self._cache
        room = min(max(FIRST, 1 << (cache.keys - 1).bit_length()), cache.span)
        self.keys = self._resized(self.keys, key_states, room)
        self.values = self._resized(self.values, value_states, room)
        self._room = room
        self.is_initialized = True

    def _resized(self, old: torch.Tensor | None, like: torch.Tensor, room: int) -> torch.Tensor:
        # Zeros, since masked places are multiplied by zero: what lies there must be finite.
        new = like.new_zeros((1, like.shape[1], room, like.shape[3]))
        if old is not None:
            new[:, :, : self._room] = old
        return new

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new rows, [1, heads, rows, dimension], to their places; return the visible part of the arena."""
        cache = self._cache
        if cache.keys > self._room:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        if cache.start >= 0:
            # As fast as the indexed copy for a few rows, and several times faster for a prefill.
            keys.narrow(2, cache.start, cache.rows).copy_(key_states)
            values.narrow(2, cache.start, cache.rows).copy_(value_states)
        else:
            keys.index_copy_(2, cache.places, key_states)
            values.index_copy_(2, cache.places, value_states)
        return keys.narrow(2, 0, cache.keys), values.narrow(2, 0, cache.keys)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.keys, 0

    def get_seq_length(self) -> int:
        # Only consistent with get_mask_sizes: the positions that matter are passed explicitly.
        return self._cache.keys - self._cache.rows

    def get_max_length(self) -> int:
        return self._cache.span


class ArenaCache(Cache):
    """What a transformers model takes as `past_key_values`. `aim` says before each forward pass where its rows go."""

    def __init__(self, span: int) -> None:
        super().__init__(layers=[])
        self.span = span
        """Most places that a layer ever allocates."""
        self.places = torch.empty(0, dtype=torch.long)
        self.start = -1
        self.keys = 0
        self.rows = 0
        self.interrupted = False
        """Whether the forward pass is to end at the next layer."""

    def aim(self, places: torch.Tensor, start: int, keys: int) -> None:
        """The next forward pass writes its rows to `places` [rows] and reads the first `keys` places.

        `start` is the first of the places if they follow one another, else -1.
        """
        self.places = places
        self.start = start
        self.keys = keys
        self.rows = places.shape[0]
        self.interrupted = False

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


GROUPED = "duo_grouped"
"""Name of `grouped_attention` among the library's attention functions."""


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
    special = any(options.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "cache"))
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


def _tiled(mask: torch.Tensor, groups: int) -> torch.Tensor:
    """The mask once for each of the groups, [1, 1, groups * rows, keys]. Kept on the mask for the layers to come."""
    width = mask.shape[2]
    if width == 1:
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
