"""The keys and values of a head with attention, by slot, and the attention over them.

A head reads the committed tokens of a slot, and then a line of guesses, which is dropped before it reads on. Its row p
stands for the target's state at position p and the token at p + 1. Rows may be missing, where the state was not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST_ROOM = 64
"""Rows that a slot has room for at first."""


class _Line:
    """Rows of one slot. keys, values [key heads, room, dim], of which the first `count` count."""

    __slots__ = ("committed", "count", "keys", "values")

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.count = 0
        self.committed: list[int] = []
        """Positions of the rows of committed tokens. Rows of guesses follow these."""


class Keys:
    """The rows of all slots. A pass adds rows to several slots, side by side: `aim`, then `attend`."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._parts: Sequence[tuple[int, int]] = ()

    def rows(self, slot: int) -> int:
        """Rows of committed tokens of the slot."""
        return len(self._lines[slot].committed) if slot in self._lines else 0

    def aim(self, parts: Sequence[tuple[int, int]]) -> None:
        """The next pass has so many rows of each slot: pairs of slot and count."""
        self._parts = parts

    def commit(self, slot: int, positions: Sequence[int]) -> None:
        """Rows of committed tokens are about to be added. What was read of guesses is dropped."""
        line = self._lines.setdefault(slot, _Line())
        line.count = len(line.committed)
        line.committed += positions

    def cut(self, slot: int, length: int) -> None:
        """Keep the rows whose state and whose token are among the first `length` tokens."""
        if (line := self._lines.get(slot)) is not None:
            while line.committed and line.committed[-1] + 1 >= length:
                line.committed.pop()
            line.count = len(line.committed)

    def share(self, source: int, target: int, length: int) -> None:
        """Copy what `cut` would leave of `source`."""
        self._lines.pop(target, None)
        if (giver := self._lines.get(source)) is None or giver.keys is None or giver.values is None:
            return
        line = self._lines[target] = _Line()
        line.committed = [at for at in giver.committed if at + 1 < length]
        line.count = len(line.committed)
        line.keys, line.values = giver.keys[:, : line.count].clone(), giver.values[:, : line.count].clone()

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Add the rows of the pass, and let each see the rows of its slot up to itself.

        query [heads, rows, dim], keys and values [key heads, rows, dim] -> [rows, heads * dim].
        """
        groups = query.shape[0] // keys.shape[0]
        done: list[Tensor] = []
        begin = 0
        for slot, width in self._parts:
            mine = slice(begin, begin + width)
            seen, content = self._append(slot, keys[:, mine], values[:, mine])
            # Query heads that share a key head become more rows of that head.
            folded = query[:, mine].reshape(keys.shape[0], groups * width, query.shape[2])
            mask = None
            if width > 1:
                mask = torch.ones(width, seen.shape[1], dtype=torch.bool, device=query.device)
                mask = mask.tril(seen.shape[1] - width).repeat(groups, 1)
            out = torch.nn.functional.scaled_dot_product_attention(
                folded[None], seen[None], content[None], attn_mask=mask, scale=scale
            )
            out = out[0].reshape(keys.shape[0] * groups, width, -1)
            done.append(out.transpose(0, 1).reshape(width, -1))
            begin += width
        return torch.cat(done)

    def _append(self, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        line = self._lines.setdefault(slot, _Line())
        line.keys = _with_room(line.keys, keys, line.count)
        line.values = _with_room(line.values, values, line.count)
        line.count += keys.shape[1]
        return line.keys[:, : line.count], line.values[:, : line.count]


def _with_room(held: Tensor | None, new: Tensor, count: int) -> Tensor:
    """The tensor with `new` [heads, rows, dim] written behind its first `count` rows."""
    end = count + new.shape[1]
    if held is None or held.shape[1] < end:
        room = max(FIRST_ROOM, 2 * end)
        larger = new.new_empty(new.shape[0], room, new.shape[2])
        if held is not None:
            larger[:, :count] = held[:, :count]
        held = larger
    held[:, count:end] = new
    return held
