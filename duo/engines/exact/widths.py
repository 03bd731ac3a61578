"""Classes of pass widths that give a row the same bits."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

PROMPT_CHUNK = 256
"""Tokens of a prompt per pass, where prompts are a class of their own."""


class WidthClass(NamedTuple):
    """Passes whose numbers of rows lie in this class give a row the same bits. Members are multiples of `step`.

    narrowest, widest: rows of one slot, and of all slots together. covers_prompts: prompts that are read in such
    passes leave the same bits too. Then the next turn of a conversation goes on from an answer as from a prompt.
    """

    narrowest: int
    widest: int
    step: int = 1
    covers_prompts: bool = False

    def __contains__(self, rows: object) -> bool:
        return isinstance(rows, int) and self.narrowest <= rows <= self.widest and not rows % self.step

    @property
    def chunk(self) -> int:
        """Tokens of a prompt per pass."""
        return self.round_up(self.widest - self.step + 1) if self.covers_prompts else PROMPT_CHUNK

    def round_up(self, rows: int) -> int:
        """The narrowest member that holds `rows` rows. `rows` is at most `widest`."""
        return max(self.narrowest, -(-rows // self.step) * self.step)


def without_unsteady(widths: WidthClass | None, unsteady: Collection[int]) -> WidthClass | None:
    """The class from its first width that is not in `unsteady` on. None if nothing is left.

    unsteady: widths whose bits depend on more than the width.
    """
    if widths is None:
        return None
    members = (rows for rows in range(widths.narrowest, widths.widest + 1) if rows in widths and rows not in unsteady)
    narrowest = next(members, None)
    if narrowest is None:
        return None
    return widths._replace(narrowest=narrowest, step=widths.step if narrowest < widths.widest else 1)
