"""Following known text, and a draft that goes on from there."""

from __future__ import annotations

from collections.abc import Sequence

from duo.draft.claims import Claims
from duo.draft.follower import Follower
from duo.draft.ngrams import NgramIndex
from duo.prefix import Prefix


def follower(tokens: Sequence[int]) -> tuple[Follower, Prefix]:
    index, prefix = NgramIndex(), Prefix(tokens)
    it = Follower(index, index.open(prefix), Claims())
    index.catch_up(10_000)
    return it, prefix


def commit(it: Follower, prefix: Prefix, tokens: Sequence[int]) -> None:
    prefix.extend(tokens)
    it.extend(prefix, tokens)
    it.index.catch_up(10_000)


def run(it: Follower, prefix: Prefix, longest: int = 64) -> list[int]:
    """What it has guessed ahead, all of which is in the tree."""
    it.expand(prefix, {it.hash}, longest)
    return it.run


def test_it_goes_on_past_a_run_that_was_right_throughout() -> None:
    it, prefix = follower([*range(100), *range(10)])
    assert run(it, prefix, 4) == [10, 11, 12, 13]
    commit(it, prefix, [10, 11, 12, 13, 14])
    assert it.match is not None and it.match.length == 15
    assert run(it, prefix, 4) == [15, 16, 17, 18]


def test_a_run_is_never_longer_than_is_asked_for() -> None:
    it, prefix = follower([*range(100), *range(60)])
    assert [len(run(it, prefix, longest)) for longest in (1, 7, 20)] == [1, 7, 20]


def test_it_is_surer_where_it_was_right_lately() -> None:
    it, prefix = follower([*range(200), *range(8)])
    short = len(run(it, prefix))
    for token in range(8, 40):
        commit(it, prefix, [token])
        run(it, prefix)
    commit(it, prefix, [900, 150, 151, 152, 153])
    assert run(it, prefix)[0] == 154
    assert it.lately > 0.75 and len(it.run) > short / 2
