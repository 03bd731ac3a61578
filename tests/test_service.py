"""From steps to pieces: what clients are shown of an answer, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from duo.engines import Engine
from duo.sampling import Logprobs, SamplingParams
from duo.session import Committed, Step
from lead.answers import Piece, Question
from lead.decoder import Job
from lead.service import _Answer

WORDS = ["", "Return", " CPU", " arguments", " after", ".", "\n"]


class _Words:
    """An engine, as far as text goes: its tokens are words."""

    @property
    def vocabulary(self) -> _Words:
        return self

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(WORDS[token] for token in tokens)


class _Nobody:
    def began(self, answer: int, prompt_tokens: int) -> None: ...

    def pieces(self, answer: int, pieces: Sequence[Piece]) -> None: ...

    def finished(self, answer: int, summary: object) -> None: ...


def step(*tokens: int) -> Step:
    return Step([Committed(token, ("b",), Logprobs(-0.5, [])) for token in tokens], [0], [], [])


def shown(stop: Sequence[str], *steps: Step) -> tuple[list[Piece], _Answer, list[bool]]:
    cancelled: list[bool] = []
    job = Job([1], SamplingParams(), 10, False, lambda step: None, lambda error: None)

    async def run() -> tuple[list[Piece], _Answer]:
        question = Question([1], SamplingParams(), stop=stop)
        answer = _Answer(1, job, question, cast(Engine, _Words()), cast(Any, _Nobody()), lambda: cancelled.append(True))
        for each in steps:
            answer.steps.put_nowait([each])
        answer.steps.put_nowait(None)
        return [piece async for pieces in answer for piece in pieces], answer

    pieces, answer = asyncio.run(run())
    return pieces, answer, cancelled


def test_without_stop_strings_a_piece_is_a_token() -> None:
    pieces, _, cancelled = shown([], step(1, 2), step(3))
    assert [(p.text, p.token) for p in pieces] == [("Return", 1), (" CPU", 2), (" arguments", 3)]
    assert not cancelled


def test_what_may_begin_a_stop_string_waits_with_its_token() -> None:
    pieces, _, _ = shown([" CPU after"], step(1), step(2), step(3))
    assert [(p.text, p.token) for p in pieces] == [("Return", 1), (" CPU", 2), (" arguments", 3)]
    assert all(p.logprobs is not None for p in pieces)


def test_no_part_of_a_stop_string_leaks_with_its_token() -> None:
    pieces, answer, cancelled = shown([" CPU arguments"], step(1, 2, 3, 4))
    assert [(p.text, p.token) for p in pieces] == [("Return", 1)]
    assert answer._tokens == 3 and cancelled == [True]


@pytest.mark.parametrize(("stop", "rest"), [("PU", " C"), ("turn", "Re")])
def test_a_token_in_whose_middle_it_stops_is_shown_as_text_alone(stop: str, rest: str) -> None:
    pieces, _, cancelled = shown([stop], step(1, 2), step(3))
    assert "".join(p.text for p in pieces) == ("Return" + " CPU").partition(stop)[0]
    assert pieces[-1] == Piece(rest, ("b",))
    assert cancelled == [True]


def test_what_was_held_back_comes_at_the_end() -> None:
    pieces, _, _ = shown([".\n\n"], step(1, 5), step(6))
    assert [(p.text, p.token) for p in pieces] == [("Return", 1), (".", 5), ("\n", 6)]
