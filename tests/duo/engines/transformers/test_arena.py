"""Places of the KV arena."""

from __future__ import annotations

import random

import pytest

from duo.engines.transformers.arena import PlaceBook
from duo.errors import ContextError


def test_place_book_against_a_plain_set() -> None:
    dice = random.Random(3)
    book, used = PlaceBook(100, 16), set[int]()
    for _ in range(400):
        if dice.random() < 0.5:
            count = dice.randint(0, 12)
            if count > 100 - len(used):
                with pytest.raises(ContextError):
                    book.take(count)
                continue
            wanted = sorted(set(range(100)) - used)[:count]
            assert book.take(count).tolist() == wanted
            used.update(wanted)
        else:
            freed = dice.sample(sorted(used), dice.randint(0, min(len(used), 12)))
            book.give(freed)
            used.difference_update(freed)
        assert book.used == len(used)
        assert book.top == max(used, default=-1) + 1
        assert book.keys >= book.top and book.keys % 16 == 0
