"""What the HTTP side and the console know of answering: questions in, pieces of answer out.

The decode loop is behind `Answerer`; nothing here knows how tokens come about.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from duo.sampling import SamplingParams

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Question:
    """One request for an answer. `max_tokens` None: until the model ends it or the context is full."""

    messages: Sequence[Mapping[str, str]]
    sampling: SamplingParams
    max_tokens: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one token that became final: `backs` names who guessed it, empty for the target's own token.

    `text` may be empty where a token completes no character. `rejected`: guesses that were verified in the same
    forward pass right after this token and were not picked, for the console.
    """

    text: str
    backs: tuple[str, ...] = ()
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class BackCount:
    """Guesses of one back in one answer: verified by the target, and picked by it."""

    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a finished answer. `drafted` counts guesses that the target verified."""

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_seconds: float
    decode_seconds: float
    steps: int
    drafted: int
    accepted: int
    backs: Mapping[str, BackCount] = field(default_factory=dict)


class Answer(Protocol):
    """An answer under way: iterate over the batches of pieces as they come, then read the summary."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def summary(self) -> Summary:
        """After the iteration has ended."""
        ...

    def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        """Batches of pieces, one batch per step or several steps. Raises DuoError if the answer cannot go on."""
        ...

    def cancel(self) -> None:
        """Nobody listens any more: stop as soon as the current forward pass is done. Harmless when finished."""
        ...


@dataclass(frozen=True, slots=True)
class BackView:
    """A connected back, for people. round_trip_ms is None until it has been measured."""

    name: str
    model: str
    state: Literal["waiting", "catching up", "drafting", "silent"]
    round_trip_ms: float | None
    drafted: int
    accepted: int


class Answerer(Protocol):
    """What the HTTP side talks to."""

    @property
    def ready(self) -> bool:
        """False while the model is loading."""
        ...

    @property
    def model(self) -> str:
        """Name of the target model."""
        ...

    @property
    def created(self) -> int:
        """Unix time at which the model was loaded, seconds."""
        ...

    def ask(self, question: Question) -> Answer:
        """Queue a question. Raises RequestError, ContextError or BusyError at once where it can never be answered."""
        ...

    def backs(self) -> Sequence[BackView]: ...
