"""Answers to requests that want none: they only read the prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from duo.sampling.logprobs import Logprobs
from lead.api import Answer, Piece, Summary


def told_of(answers: Sequence[Answer], no_answer: bool) -> Sequence[Answer]:
    """The answers as the client hears of them. `no_answer`: it wants none."""
    return [SilentAnswer(answer) for answer in answers] if no_answer else answers


class SilentAnswer:
    """An answer that tells nothing. See `lead.api.Answer`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.cancel = answer.cancel

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        return self._answer.prompt_logprobs

    @property
    def summary(self) -> Summary:
        return replace(self._answer.summary, completion_tokens=0, finish_reason="length")

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        async for _ in self._answer:
            yield ()
