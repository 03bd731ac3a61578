"""From steps to pieces: what clients are shown of an answer, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import cast

import pytest

from duo.engines import Engine, Vocabulary
from duo.errors import DuoError, StoppedError
from duo.sampling.logprobs import Logprobs
from duo.sampling.params import SamplingParams
from lead.answers import handover
from lead.answers.answer import RunningAnswer
from lead.answers.text import NO_MARKS, special_in
from lead.api import Observer, Piece, Question, ThinkingMarks
from lead.console.console import Console
from lead.decode.request import Request
from lead.decode.session import Committed, Step

WORDS = ["", "Return", " CPU", " arguments", " after", ".", "\n"]
NAMED = "<|end|>"
"""Of the first word, which is special."""


class _Words:
    """An engine, as far as text goes: its tokens are words."""

    def __init__(self, eos: Collection[int] = ()) -> None:
        self.eos = frozenset(eos)

    @property
    def vocabulary(self) -> _Words:
        return self

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(WORDS[token] for token in tokens)

    @property
    def meanings(self) -> Sequence[bytes]:
        return [NAMED.encode(), *(word.encode() for word in WORDS[1:])]

    def token_bytes(self, token: int) -> bytes:
        return WORDS[token].encode()

    def encode_rendered(self, text: str) -> list[int]:
        """Words, and 0 for the special token."""
        found: list[int] = []
        while text:
            token = next((t for t, word in enumerate([NAMED, *WORDS[1:]]) if text.startswith(word)), None)
            found += [] if token is None else [token]
            text = text[1 if token is None else len([NAMED, *WORDS[1:]][token]) :]
        return found


def step(*tokens: int) -> Step:
    return Step([Committed(token, ("b",), Logprobs(-0.5, [])) for token in tokens], [0], [], [], {})


def shown(
    stop: Sequence[str],
    *steps: Step,
    stop_tokens: Collection[int] = (),
    marks: Mapping[int, str] = NO_MARKS,
    eos: Collection[int] = (),
    ignore_eos: bool = False,
    turns: Sequence[str] = (),
) -> tuple[list[Piece], RunningAnswer, list[bool]]:
    cancelled: list[bool] = []
    request = Request([1], SamplingParams(), 10, False, lambda step: None, lambda error: None, stop_tokens)
    names = special_in(stop, cast(Vocabulary, _Words()))
    words = _Words(eos)

    async def run() -> tuple[list[Piece], RunningAnswer]:
        question = Question(
            [1], SamplingParams(), ignore_eos=ignore_eos, stop=stop, stop_names=names, marks=marks, turns=turns
        )
        answer = RunningAnswer(
            1, request, question, cast(Engine, words), [], lambda: cancelled.append(True), lambda: None
        )
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
    assert answer.tokens == 3 and cancelled == [True]


@pytest.mark.parametrize(("stop", "rest"), [("PU", " C"), ("turn", "Re")])
def test_a_token_in_whose_middle_it_stops_is_shown_as_text_alone(stop: str, rest: str) -> None:
    pieces, _, cancelled = shown([stop], step(1, 2), step(3))
    assert "".join(p.text for p in pieces) == ("Return" + " CPU").partition(stop)[0]
    assert pieces[-1] == Piece(rest, ("b",))
    assert cancelled == [True]


def test_what_was_held_back_comes_at_the_end() -> None:
    pieces, _, _ = shown([".\n\n"], step(1, 5), step(6))
    assert [(p.text, p.token) for p in pieces] == [("Return", 1), (".", 5), ("\n", 6)]


@pytest.mark.parametrize("stop", [NAMED, NAMED + "\n", "." + NAMED, ".<|end|>\n"])
def test_a_special_token_in_a_stop_string_is_found_though_it_adds_no_text(stop: str) -> None:
    pieces, _, cancelled = shown([stop], step(1, 2), step(5, 0), step(6, 3))
    assert "".join(p.text for p in pieces) == "Return CPU."[: -1 if stop.startswith(".") else None]
    assert cancelled == [True]


@pytest.mark.parametrize("stop", [NAMED + ".", "<|end", NAMED[:-1] + "\n", "|>."])
def test_what_is_no_stop_string_after_all_comes_without_the_name(stop: str) -> None:
    pieces, _, cancelled = shown([stop], step(1, 2), step(5, 0), step(6, 3))
    assert "".join(p.text for p in pieces) == "Return CPU.\n arguments"
    assert [p.token for p in pieces] == [1, 2, 5, 0, 6, 3]
    assert not cancelled


def test_a_token_that_ends_the_answer_adds_nothing_to_its_text() -> None:
    pieces, _, _ = shown([], step(1, 2), step(3), stop_tokens=[3])
    assert [(p.text, p.token) for p in pieces] == [("Return", 1), (" CPU", 2), ("", 3)]


@pytest.mark.parametrize(
    ("stop", "told", "stopped"),
    [
        ([], ["Return", NAMED, " CPU"], False),
        ([NAMED], ["Return"], True),
        (["n" + NAMED[:3]], ["Retur"], True),
        ([NAMED + " CPU"], ["Return"], True),
        ([NAMED + "."], ["Return", NAMED, " CPU"], False),
    ],
)
def test_a_mark_is_text_and_may_be_in_a_stop_string(stop: Sequence[str], told: list[str], stopped: bool) -> None:
    pieces, _, cancelled = shown(stop, step(1, 0), step(2), marks={0: NAMED})
    assert [p.text for p in pieces if p.text] == told
    assert cancelled == [True] * stopped


@pytest.mark.parametrize(("ignore_eos", "text"), [(False, "Return CPU"), (True, f"Return{NAMED} CPU")])
def test_a_mark_that_ends_the_answer_is_no_text(ignore_eos: bool, text: str) -> None:
    pieces, _, _ = shown([], step(1, 0, 2), marks={0: NAMED}, eos=[0], ignore_eos=ignore_eos)
    assert "".join(p.text for p in pieces) == text and [p.token for p in pieces] == [1, 0, 2]


def test_a_turn_ends_the_answer_and_is_no_stop_string_of_the_client() -> None:
    pieces, answer, cancelled = shown([".."], step(1, 2), step(6, 4), turns=["\n after"])
    assert "".join(p.text for p in pieces) == "Return CPU" and cancelled == [True]
    assert answer.stop_string == ""
    _, answer, _ = shown(["\n after"], step(1, 2), step(6, 4), turns=["\n after"])
    assert answer.stop_string == "\n after"
    pieces, _, cancelled = shown([], step(1, 2), step(6, 4), turns=["\n after"], ignore_eos=True)
    assert "".join(p.text for p in pieces) == "Return CPU\n after" and not cancelled


class Heard(Observer):
    def __init__(self) -> None:
        self.events: list[object] = []

    def began(self, answer: int) -> None:
        self.events.append("began")

    def first_text(self, answer: int, seconds: float) -> None:
        self.events.append("first text")

    def pieces(self, answer: int, pieces: Sequence[Piece]) -> None:
        self.events.append("".join(piece.text for piece in pieces))

    def failed(self, answer: int, status: int) -> None:
        self.events.append(status)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("cancelled", ["began", "first text", "Return", 499]),
        ("not read on", ["began", "first text", "Return", 499]),
        ("stopped", ["began", "first text", "Return", " CPU", 503]),
        ("broken", ["began", "first text", "Return", " CPU", 500]),
        ("never read", ["began", 499]),
    ],
)
def test_an_observer_hears_of_one_end(end: str, told: Sequence[object]) -> None:
    heard = Heard()
    request = Request([1], SamplingParams(), 10, False, lambda step: None, lambda error: None)

    async def run() -> None:
        question = Question([1], SamplingParams())
        answer = RunningAnswer(1, request, question, cast(Engine, _Words()), [heard], lambda: None, lambda: None)
        if end != "never read":
            answer.steps.put_nowait([step(1)])
            answer.steps.put_nowait([step(2)])
            answer.steps.put_nowait(StoppedError("the lead is stopping") if end == "stopped" else DuoError("broken"))
            async with aclosing(cast(AsyncGenerator[object, None], aiter(answer))) as pieces:
                with contextlib.suppress(DuoError):
                    async for _ in pieces:
                        if end == "cancelled":
                            answer.cancel()
                        if end == "not read on":
                            break
        answer.cancel()
        answer.cancel()

    asyncio.run(run())
    assert heard.events == told


@pytest.mark.parametrize("read", ["not", "streamed", "with a stop", "by the console"])
def test_what_nobody_reads_is_handed_over_seldom(monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    stop = ("x",) if read == "with a stop" else ()
    question = Question([1], SamplingParams(), stop=stop, streamed=read == "streamed")
    request = Request([1], SamplingParams(), 10, False, lambda step: None, lambda error: None)
    observers = [Console("accepted" if read == "by the console" else "none")]
    answer = asyncio.run(_made(request, question, observers))
    calls: list[Callable[[], None]] = []
    passing = handover.Handover(calls.append, lambda steps: None)
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    for _ in range(100):
        clock += 0.01
        passing.step(answer, step(1))
        passing.stepped()
    passing.end(answer, None)
    expected = 1.0 / (handover.UNREAD_PACE if read == "not" else handover.PACE)
    # The first word is handed over at once, and the end as well.
    assert expected * 0.7 <= len(calls) - 2 <= expected + 1


@pytest.mark.parametrize("watched", [True, False])
def test_who_watches_is_told_what_is_thinking(watched: bool) -> None:
    """The mark that ends it counts as thinking, and a part before a stop string is what its token is."""
    request = Request([1], SamplingParams(), 10, False, lambda step: None, lambda error: None)
    question = Question([1], SamplingParams(), stop=["gum"], thinking_marks=ThinkingMarks([], [" CPU"], begun=True))

    async def run() -> list[Piece]:
        answer = await _made(request, question, [Console("accepted" if watched else "none")])
        answer.steps.put_nowait([step(1, 2, 4, 3)])
        return [piece async for pieces in answer for piece in pieces]

    told = [(piece.text, piece.thought) for piece in asyncio.run(run())]
    assert told == [("Return", watched), (" CPU", watched), (" after", False), (" ar", False)]


async def _made(request: Request, question: Question, observers: Sequence[Observer]) -> RunningAnswer:
    return RunningAnswer(1, request, question, cast(Engine, _Words()), observers, lambda: None, lambda: None)
