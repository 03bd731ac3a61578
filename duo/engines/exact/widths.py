"""Classes of pass widths that give a row the same bits."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

CHUNK = 256
"""Tokens of a prompt in one pass, where prompts are a class of their own."""


class Widths(NamedTuple):
    """A class: passes of so many rows give a row the same bits. Its members are multiples of `step`.

    least, most: rows of a slot, and of all slots together. alike: whether prompts that are read in such passes leave
    the same bits too. Then a conversation's next turn goes on from an answer as from a prompt.
    """

    least: int
    most: int
    step: int = 1
    alike: bool = False

    def __contains__(self, rows: object) -> bool:
        return isinstance(rows, int) and self.least <= rows <= self.most and not rows % self.step

    @property
    def chunk(self) -> int:
        """Tokens of a prompt in one pass."""
        return self.filled(self.most - self.step + 1) if self.alike else CHUNK

    def filled(self, rows: int) -> int:
        """The narrowest member of at least so many rows, which are at most `most`."""
        return max(self.least, -(-rows // self.step) * self.step)


def steady(widths: Widths | None, unsteady: Collection[int]) -> Widths | None:
    """The class less its narrowest widths whose bits depend on more than the width; None: nothing is left."""
    if widths is None:
        return None
    members = (width for width in range(widths.least, widths.most + 1) if width in widths and width not in unsteady)
    least = next(members, None)
    if least is None:
        return None
    return widths._replace(least=least, step=widths.step if least < widths.most else 1)
