"""What every endpoint works with, and what the person who starts the lead decides about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from duo.errors import DuoError, RequestError
from lead.api import CLIENT_GONE, Answer, Answerer, Question
from lead.chat.conversation import ChatSettings
from lead.http.defaults import SamplingDefaults, SamplingFlags, sampling_defaults
from lead.http.info.metrics import Metrics
from lead.http.owner import owner_of
from lead.http.responses.memory import Memory
from lead.security.joining import Commands

BODY_LIMIT = 4 << 20
"""Bytes of a request's body. This is more text than any context holds."""


@dataclass(frozen=True, slots=True)
class Options:
    """alias: what clients call the model, empty for its own name. slots, metrics: whether clients may see them.
    chat: how conversations are read and written. slot_files: whether clients may save slots to files. sampling: what
    the flags say for requests that say nothing. joining: how other machines join, if they can, without secrets."""

    alias: str = ""
    slots: bool = True
    metrics: bool = False
    chat: ChatSettings = field(default_factory=ChatSettings)
    slot_files: bool = False
    sampling: SamplingFlags = field(default_factory=SamplingFlags)
    joining: Commands | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The answerer, what its owner has decided about it, who counts, and the responses that are remembered."""

    answerer: Answerer
    options: Options
    metrics: Metrics
    memory: Memory = field(default_factory=Memory)

    @property
    def model(self) -> str:
        """What clients call the model."""
        return self.options.alias or self.answerer.info.name

    @property
    def defaults(self) -> SamplingDefaults:
        """How to sample where a request does not say."""
        return sampling_defaults(self.options.sampling, self.answerer.info.sampling)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Counts the request if it is refused in here: it is malformed, impossible or too much."""
        try:
            yield
        except ClientDisconnect:
            self.metrics.refused(CLIENT_GONE)
            raise
        except Exception as error:
            self.metrics.refused(error.status if isinstance(error, DuoError) else 500)
            raise

    def ask(self, request: Request, questions: Sequence[Question]) -> list[Answer]:
        """Asks all of the questions of a request or none. Raises what `Answerer.ask` raises."""
        answers, most = list[Answer](), self.answerer.info.max_questions
        if len(questions) > most:
            raise RequestError(f"{len(questions)} answers in one request: this lead takes {most} at once", "n")
        owner = owner_of(request.scope)
        try:
            for question in questions:
                answers.append(self.answerer.ask(replace(question, owner=owner)))
        except BaseException:
            for answer in answers:
                answer.cancel()
            raise
        return answers


Handler = Callable[[Site, Request], Awaitable[Response]]
"""Answers the requests of one endpoint. Raises DuoError."""
