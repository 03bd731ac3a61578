"""Attention over the arena: without copies of shared keys, and lane by lane if rows lie in several lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

GROUPED = "duo_grouped"
"""Name of `grouped_attention` among the library's attention functions."""

SPECIAL = ("softcap", "s_aux", "position_bias", "cache")
"""Options that change what attention computes. The library's own functions know them or refuse them."""

LANES = "duo_lanes"
"""Attribute of keys in several lanes (see `ArenaLayer.update`), and of their mask. The mask's is a list with a mask
[1, 1, rows, keys] for each lane."""

START = "duo_start"
"""Attribute of keys whose rows attend one by one: the place of each lane's first row, and how many of its last rows are
padding."""

MAX_ROWS_BY_ROW = 32
"""Rows of a lane that may attend one by one. More rows are a prompt's."""


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention with fewer key heads than query heads, without a copy of keys and values for every query head.

    query [1, heads, rows, dim], key and value [1, key heads, keys, dim], mask [1, 1, rows, keys] -> [1, rows, heads,
    dim]. The library's own function repeats keys and values for every query head, in every layer and over the whole
    context. With 4 query heads per key head and 4,096 tokens that takes twelve times as long as the attention itself.
    Here the rows of query heads that share a key head become more rows of that head.

    Rows of several lanes attend lane by lane, each over its own keys as if it were alone. One call with the lanes as
    its batch must pad every lane to the longest. It was tried, and is slower as soon as lanes differ.
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
    query: Tensor,
    visible: Sequence[tuple[int, Tensor, Tensor]],
    attention_mask: Tensor | None,
    starts: Sequence[tuple[int, int]] | None,
    **options: Any,
) -> Tensor:
    """Each lane attends over its own keys. query [1, heads, rows, dim], lanes side by side -> [1, rows, heads, dim]."""
    masks: list[Tensor] | None = getattr(attention_mask, LANES, None)
    if masks is None or any(options.get(name) is not None for name in SPECIAL):
        raise TypeError("this model's attention does not take slots apart")
    _, heads, rows, dim = query.shape
    key_heads = visible[0][1].shape[1]
    groups, scale = heads // key_heads, options.get("scaling")
    attend = torch.nn.functional.scaled_dot_product_attention
    widths = [mask.shape[2] for mask in masks]
    parts = torch.split(query.transpose(1, 2).reshape(rows, key_heads, groups, dim), widths)
    done: list[Tensor] = []
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
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, begin: tuple[int, int], scale: float | None
) -> Tensor:
    """Each row attends by itself, over the keys up to its own. query [rows, key heads, groups, dim] -> the same shape.

    Products of other shapes give other bits. Here the shapes follow from the row's place alone. begin: the place of the
    first row, and how many rows at the end are padding. These get the result of the row before them.
    """
    start, padding = begin
    attend = torch.nn.functional.scaled_dot_product_attention
    done = []
    for at in range(query.shape[0] - padding):
        end = start + at + 1
        seen = mask[:, :, at : at + 1, :end]
        done.append(attend(query[at : at + 1], keys[:, :, :end], values[:, :, :end], attn_mask=seen, scale=scale))
    return torch.cat([*done, *(done[-1:] * padding)])


def _tiled(mask: Tensor, groups: int) -> Tensor:
    """The mask repeated for each group, [1, 1, groups * rows, keys]. The mask keeps it for later layers."""
    width = mask.shape[2]
    if width == 1 or groups == 1:
        return mask
    known: Tensor | None = getattr(mask, GROUPED, None)
    if known is None or known.shape[2] != groups * width:
        known = mask.repeat(1, 1, groups, 1)
        setattr(mask, GROUPED, known)
    return known


_functions: Any = AttentionInterface
_masks: Any = AttentionMaskInterface
_stock_attention: Callable[..., tuple[Tensor, Tensor | None]] = _functions()["sdpa"]
_functions.register(GROUPED, grouped_attention)
# For calls without a mask: the stock function's mask suits this function too.
_masks.register(GROUPED, _masks()["sdpa"])
