"""What a target answers, and what is recorded along it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from duo.draft.scaling import Scale, Sharpness
from duo.engines import ROOT, Engine, Logits, Row
from duo.engines.base import TREES
from duo.sampling.params import SamplingParams
from lead.match.recording import along, answered
from tests.support.fakes import FakeModel
from tests.support.slotted import CHAINS, EOS, SlottedEngine


class Counting:
    """An engine whose model says that each token is followed by the next one, and the one after that is half as likely.

    What it is given must be one chain.
    """

    rollback = TREES
    vocabulary = SimpleNamespace(size=100)

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
    made = along(cast(Engine, engine), scale, Sharpness(), [10, 11], tokens, SamplingParams(temperature=0.0), 100)
    assert engine.committed == [10, 11, *tokens[:-1]]
    assert made.tokens == tokens
    assert [token for token, _ in made.guesses[0][:2]] == [12, 13]
    assert [chance for _, chance in made.guesses[0][:2]] == pytest.approx([2 / 3, 1 / 3], abs=0.01)
    assert [place for _, place in made.picked()] == [0] * 48 + [1, 0]
    assert scale.value < 1  # surer than it says


class TestAnswered:
    GREEDY = SamplingParams(temperature=0.0)

    def test_answers_are_the_target_s_own_however_many_at_once(self) -> None:
        model = FakeModel()
        prompts = [([1, 2, number], self.GREEDY) for number in range(5)]
        done: list[int] = []
        made = answered(cast(Engine, SlottedEngine(model, 3)), prompts, 8, done.append)
        assert done == [1, 2, 3, 4, 5]
        for (prompt, _), tokens in zip(prompts, made, strict=True):
            text = list(prompt)
            for token in tokens:
                assert token == int(model.logits(text).argmax())
                text.append(token)
            assert len(tokens) == 8 or tokens[-1] == EOS
            assert EOS not in tokens[:-1]

    def test_a_prompt_of_one_token(self) -> None:
        (tokens,) = answered(cast(Engine, SlottedEngine(FakeModel(), 1)), [([1], self.GREEDY)], 3)
        assert tokens


def test_tokens_with_another_meaning_are_not_guessed_and_unknown_ones_are_read() -> None:
    draft, params = SlottedEngine(FakeModel(), 1), SamplingParams(temperature=0.0)
    tokens = [4, FakeModel.size + 3, 6, 7]
    made = along(cast(Engine, draft), Scale(), Sharpness(), [1, 2], tokens, params, FakeModel.size - 2, [5, 6])
    guessed = {token for guesses in made.guesses for token, chance in guesses if chance > 0.0}
    assert guessed and guessed <= set(range(FakeModel.size - 2)) - {5, 6}
    assert made.tokens == tokens


def test_a_model_whose_memory_goes_back_a_little_reads_short_chains() -> None:
    draft, params = SlottedEngine(FakeModel(), 1, CHAINS), SamplingParams(temperature=0.0)
    trees = SlottedEngine(FakeModel(), 1)
    tokens = list(range(1, 11))
    short, long = (
        along(cast(Engine, it), Scale(), Sharpness(), [1], tokens, params, FakeModel.size) for it in (draft, trees)
    )
    assert short == long
