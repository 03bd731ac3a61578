"""Who wants to know of every answer that begins and ends: the metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from starlette.requests import ClientDisconnect

from duo.errors import DuoError, RequestError
from lead.api import Answer, Answerer, Piece, Question, Summary
from lead.decode.session import Logprobs
from lead.http.errors import CLIENT_GONE


class Watch:
    """Hears of answers, in the event loop; this one does nothing with it. After `began`, exactly one of `finished` and
    `failed` follows; `failed` comes alone for a question that was refused."""

    def began(self) -> None:
        """A question has been taken."""

    def first_token(self, seconds: float) -> None:
        """Its first token has come, so long after the question."""

    def finished(self, summary: Summary) -> None:
        """The answer is complete."""

    def failed(self, status: int) -> None:
        """There is no answer, or no whole one. `status` 499: the client went away."""


class Relayed:
    """An answer handed on as it is, for others to change something of. See `lead.api.Answer`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @property
    def prompt_tokens(self) -> int:
        return self._answer.prompt_tokens

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        return self._answer.prompt_logprobs

    @property
    def summary(self) -> Summary:
        return self._answer.summary

    def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        return self._answer.__aiter__()

    def cancel(self) -> None:
        self._answer.cancel()


class WatchedAnswer(Relayed):
    """An answer that a watch hears of."""

    def __init__(self, answer: Answer, watch: Watch) -> None:
        super().__init__(answer)
        self._watch = watch
        self._asked = time.perf_counter()
        self._ended = False
        watch.began()

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        begun = False
        try:
            async for batch in self._answer:
                if not begun:
                    begun = True
                    self._watch.first_token(time.perf_counter() - self._asked)
                yield batch
            summary = self._answer.summary
        except Exception as error:
            self._fail(error.status if isinstance(error, DuoError) else 500)
            raise
        if not self._ended:
            self._ended = True
            self._watch.finished(summary)

    def cancel(self) -> None:
        super().cancel()
        self._fail(CLIENT_GONE)

    def _fail(self, status: int) -> None:
        if not self._ended:
            self._ended = True
            self._watch.failed(status)


@contextmanager
def refusals(watch: Watch) -> Iterator[None]:
    """What is refused in here is counted, be it malformed, impossible or too much."""
    try:
        yield
    except ClientDisconnect:
        watch.failed(CLIENT_GONE)
        raise
    except Exception as error:
        watch.failed(error.status if isinstance(error, DuoError) else 500)
        raise


def ask_all(answerer: Answerer, questions: Sequence[Question], watch: Watch) -> list[Answer]:
    """Ask all of the questions or none. Raises what `Answerer.ask` raises."""
    answers: list[Answer] = []
    try:
        if len(questions) > answerer.most:
            raise RequestError(f"{len(questions)} answers in one request: this lead takes {answerer.most} at once", "n")
        for question in questions:
            answers.append(WatchedAnswer(answerer.ask(question), watch))
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
    return answers
