"""What a target answers, and what is recorded along it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from duo.draft.scaling import Scale, Sharpness
from duo.engines import ROOT, Engine, Logits, Row
from duo.engines.base import TREES
from duo.sampling.params import SamplingParams
from lead.match.recording import along


class Counting:
    """An engine whose model says that each token is followed by the next one, and the one after that is half as likely.

    What it is given must be one chain.
    """

    rollback = TREES

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.rows: list[Row] = []

    def truncate(self, slot: int, length: int) -> None:
        del self.committed[length:]

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        self.committed += tokens

    def forward(self, rows: Sequence[Row]) -> Logits:
        assert [row.parent for row in rows] == [ROOT, *(row.id for row in rows[:-1])]
        self.rows = list(rows)
        logits = np.full((len(rows), 100), -20.0, np.float32)
        for i, row in enumerate(rows):
            logits[i, row.token + 1], logits[i, row.token + 2] = 0.0, np.log(0.5)
        return logits

    def commit(self, slot: int, path: Sequence[int]) -> None:
        self.committed += [self.rows[i].token for i in path]


def test_what_is_recorded_is_what_a_back_would_have_guessed() -> None:
    engine, tokens = Counting(), [*range(12, 60), 61, 62]
    scale = Scale()
    made = along(cast(Engine, engine), scale, Sharpness(), [10, 11], tokens, SamplingParams(temperature=0.0))
    assert engine.committed == [10, 11, *tokens[:-1]]
    assert made.tokens == tokens
    assert [token for token, _ in made.guesses[0][:2]] == [12, 13]
    assert [chance for _, chance in made.guesses[0][:2]] == pytest.approx([2 / 3, 1 / 3], abs=0.01)
    assert [place for _, place in made.picked()] == [0] * 48 + [1, 0]
    assert scale.value < 1  # surer than it says
