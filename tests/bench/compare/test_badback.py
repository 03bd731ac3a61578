"""A back that guesses at random."""

from __future__ import annotations

import random

from bench.compare import badback
from duo.prefix import Prefix
from lead.plan.tree import GuessTree


def test_a_bad_back_makes_sense_to_the_lead() -> None:
    prefix = Prefix([1, 2, 3])
    tree = GuessTree(len(prefix), prefix.hash)
    assert all(tree.merge(e, "bad") for e in badback.chain(prefix, 100, random.Random(1)))
    assert len(tree) == badback.CHAIN_LENGTH
