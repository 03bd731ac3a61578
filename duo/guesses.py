"""What a back says: which tokens may follow a prefix, and how likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Expansion(NamedTuple):
    """Guesses for the one token after the prefix of this length and hash, with the probability of each."""

    length: int
    hash: int
    tokens: Sequence[int]
    probabilities: Sequence[float]


class Share(NamedTuple):
    """Which back this is, from 0, of how many that divide what is to be drafted between them."""

    number: int
    backs: int


ALONE = Share(0, 1)
