"""Which states of earlier lengths a slot keeps."""

from __future__ import annotations

import numpy as np

from duo.engines.llamacpp.checkpoints import MIN_CHECKPOINTS, Checkpoint, Checkpoints


def of(length: int, size: int = 10) -> Checkpoint:
    return Checkpoint(length, np.zeros(size, dtype=np.uint8), 1)


def filled(most_bytes: int, *lengths: int) -> Checkpoints:
    checkpoints = Checkpoints(most_bytes)
    for length in lengths:
        checkpoints.add(of(length))
    return checkpoints


def lengths(checkpoints: Checkpoints) -> list[int]:
    return [it.length for it in checkpoints]


def test_the_newest_of_at_most_a_length() -> None:
    checkpoints = filled(1000, 5, 9, 20)
    found = [checkpoints.newest(length) for length in (4, 5, 19, 99)]
    assert [it and it.length for it in found] == [None, 5, 9, 20]
    assert (checkpoints.last, Checkpoints(1000).last) == (20, 0)


def test_the_second_goes_where_bytes_do_not_suffice() -> None:
    assert lengths(filled(40, 1, 2, 3, 4, 5, 6)) == [1, 4, 5, 6]
    assert lengths(filled(0, 1, 2, 3, 4, 5, 6)) == [1, 5, 6]
    assert len(lengths(filled(0, *range(1, 9)))) == MIN_CHECKPOINTS


def test_what_comes_after_a_cut_replaces_what_was_there() -> None:
    checkpoints = filled(1000, 5, 9, 20)
    checkpoints.cut(9)
    checkpoints.add(of(9, 7))
    assert [(it.length, len(it.state)) for it in checkpoints] == [(5, 10), (9, 7)]
    checkpoints.drop(next(iter(checkpoints)))
    assert lengths(checkpoints) == [9]
