"""What a back says: which tokens may follow a prefix, and how likely they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Expansion(NamedTuple):
    """Guesses for the next token after the prefix of this length and hash, with the probability of each."""

    length: int
    hash: int
    tokens: Sequence[int]
    probabilities: Sequence[float]


class Share(NamedTuple):
    """A back's part of the drafting: it is number `number`, from 0, of `backs` that divide it."""

    number: int
    backs: int


ALONE = Share(0, 1)
