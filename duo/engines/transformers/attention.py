"""Attention over the arena: without copies of shared keys, and lane by lane where rows lie in several lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

GROUPED = "duo_grouped"
"""Name of `grouped_attention` among the library's attention functions."""

SPECIAL = ("softcap", "s_aux", "position_bias", "cache")
"""Options that change what attention computes. The library's own functions know them, or say that they do not."""

LANES = "duo_lanes"
"""Attribute of keys that lie in several lanes (see `ArenaLayer.update`) and of the mask that goes with them: a list of
[1, 1, rows, keys], one mask for each lane."""

START = "duo_start"
"""Attribute of keys whose rows attend one by one: for each lane the place of the first row."""

BY_ROW = 32
"""Rows of a lane up to which they do so. More are a prompt's."""


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

    Rows of several lanes attend lane by lane, each over its own keys as if it were alone. One call for all of them,
    with the lanes as its batch, was tried: it has to pad every lane to the longest, and is slower as soon as they
    differ.
    """
    visible, starts = getattr(key, LANES, None), getattr(key, START, None)
    if visible is not None:
        return _attend_lanes(query, visible, attention_mask, starts, **options), None
    groups = query.shape[1] // key.shape[1]
    special = any(options.get(name) is not None for name in SPECIAL)
    if starts and not special and attention_mask is not None:
        rows = query[0].transpose(0, 1).reshape(query.shape[2], key.shape[1], groups, query.shape[3])
        alone = _attend_rows(rows, key, value, attention_mask, starts[0], options.get("scaling"))
        return alone.reshape(1, query.shape[2], query.shape[1], value.shape[3]), None
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


def _attend_lanes(
    query: torch.Tensor,
    visible: Sequence[tuple[int, torch.Tensor, torch.Tensor]],
    attention_mask: torch.Tensor | None,
    starts: Sequence[int] | None,
    **options: Any,
) -> torch.Tensor:
    """query [1, heads, rows, dim], the lanes' rows side by side -> [1, rows, heads, dim]."""
    masks: list[torch.Tensor] | None = getattr(attention_mask, LANES, None)
    if masks is None or any(options.get(name) is not None for name in SPECIAL):
        raise TypeError("this model's attention does not take slots apart")
    _, heads, rows, dim = query.shape
    key_heads = visible[0][1].shape[1]
    groups, scale = heads // key_heads, options.get("scaling")
    attend = torch.nn.functional.scaled_dot_product_attention
    widths = [mask.shape[2] for mask in masks]
    parts = torch.split(query.transpose(1, 2).reshape(rows, key_heads, groups, dim), widths)
    done: list[torch.Tensor] = []
    for lane, (width, part, (_, keys, values), mask) in enumerate(zip(widths, parts, visible, masks, strict=True)):
        if starts:
            done.append(_attend_rows(part, keys, values, mask, starts[lane], scale))
            continue
        if width == 1:
            done.append(attend(part, keys, values, attn_mask=mask, scale=scale))
            continue
        folded = part.permute(1, 2, 0, 3).reshape(1, key_heads, groups * width, dim)
        folded = attend(folded, keys, values, attn_mask=_tiled(mask, groups), scale=scale)
        done.append(folded.reshape(key_heads, groups, width, -1).permute(2, 0, 1, 3))
    return torch.cat(done).reshape(1, rows, heads, -1)


def _attend_rows(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, start: int, scale: float | None
) -> torch.Tensor:
    """query [rows, key heads, groups, dim] -> the same shape, each row by itself over the keys up to its own.

    Products of other shapes give other bits. So the shapes follow from the row's place alone.
    """
    attend = torch.nn.functional.scaled_dot_product_attention
    done = []
    for at in range(query.shape[0]):
        end = start + at + 1
        seen = mask[:, :, at : at + 1, :end]
        done.append(attend(query[at : at + 1], keys[:, :, :end], values[:, :, :end], attn_mask=seen, scale=scale))
    return torch.cat(done)


def _tiled(mask: torch.Tensor, groups: int) -> torch.Tensor:
    """The mask once for each of the groups, [1, 1, groups * rows, keys]. The mask keeps it for the layers to come."""
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
