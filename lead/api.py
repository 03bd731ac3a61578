"""What the HTTP side and the console know of answering: questions in, pieces of answer out.

The decode loop is behind `Answerer`; nothing here knows how tokens come about.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from duo.engines.base import Vocabulary
from duo.sampling.params import SamplingParams
from lead.decode.session import Logprobs

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Question:
    """One request for an answer to the tokens of a prompt.

    max_tokens None: until the model ends it or the context is full. stop: strings that end the answer and are not a
    part of it. stop_names: special tokens in those, as `lead.answers.text.special_in` finds them. stop_tokens: tokens
    that end it and add nothing to its text. top_logprobs: how many of the likeliest tokens to report with each one; 0
    only the token's own log probability, None nothing. prompt_logprobs: whether to report as much of the prompt's
    tokens. continues: whether the answer goes on with the prompt's text, and is no text of its own: then it may begin
    with a space. streamed: whether somebody reads it as it comes.
    """

    prompt: Sequence[int]
    sampling: SamplingParams
    max_tokens: int | None = None
    ignore_eos: bool = False
    stop: Sequence[str] = ()
    stop_names: Mapping[int, str] = field(default_factory=dict)
    stop_tokens: Sequence[int] = ()
    top_logprobs: int | None = None
    prompt_logprobs: bool = False
    continues: bool = False
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """One token that became final: `backs` names who guessed it, empty for the target's own token.

    `text` may be empty where a token completes no character. A token whose text may begin a stop string comes when it
    is clear that it does not. `token` None: no whole token, only text, as before a stop string that begins in the
    middle of one. `rejected`: guesses that were verified in the same forward pass right after this token and were not
    picked, for the console.
    """

    text: str
    backs: tuple[str, ...] = ()
    rejected: str = ""
    token: int | None = None
    logprobs: Logprobs | None = None


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
    queued_seconds: float = 0.0
    backs: Mapping[str, BackCount] = field(default_factory=dict)


class Answer(Protocol):
    """An answer under way: iterate over the batches of pieces as they come, then read the summary."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        """Of the prompt's tokens but the first, if they were asked for; complete when the first piece comes."""
        ...

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


CLIENT_GONE = 499
"""nginx's status for a client that went away. Nobody is left to read it."""


class Observer:
    """Hears of every answer, in the event loop. This one ignores it all.

    `answer` is the answer's number. After `began`, exactly one of `finished` and `failed` follows.
    """

    @property
    def reads(self) -> bool:
        """Whether it wants the pieces as soon as they exist."""
        return False

    def began(self, answer: int) -> None:
        """The lead has taken the question."""

    def first_text(self, answer: int, seconds: float) -> None:
        """The first pieces are here, this many seconds after the question."""

    def pieces(self, answer: int, pieces: Sequence[Piece]) -> None:
        """More of the answer."""

    def finished(self, answer: int, summary: Summary) -> None:
        """The answer is complete."""

    def failed(self, answer: int, status: int) -> None:
        """The answer broke off. `status`: of HTTP, `CLIENT_GONE` if its reader stopped."""

    def refused(self, status: int) -> None:
        """A question got no answer at all."""


BackState = Literal["waiting", "catching up", "drafting", "silent"]

SlotState = Literal["idle", "reading", "answering"]


@dataclass(frozen=True, slots=True)
class BackView:
    """A connected back, for people. round_trip_ms is None until it has been measured."""

    name: str
    model: str
    state: BackState
    round_trip_ms: float | None
    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class SlotView:
    """What one slot of the target model is doing, for people. An idle one still holds what its last answer left."""

    id: int
    state: SlotState
    prompt_tokens: int = 0
    """Of the prompt, and how many of them are in the cache by now."""
    prompt_read: int = 0
    completion_tokens: int = 0
    tokens_per_second: float = 0.0
    """Of this answer so far."""


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

    @property
    def runtime(self) -> str:
        """'transformers' or 'llamacpp'."""
        ...

    @property
    def speculates(self) -> bool:
        """Whether guesses are ever verified."""
        ...

    @property
    def exactness(self) -> str:
        """Whether the same text gets the same bits always, and what that costs: a line for people."""
        ...

    @property
    def context(self) -> int:
        """Tokens that one slot holds."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The target model's; safe to use from the event loop."""
        ...

    @property
    def waiting(self) -> int:
        """Questions that wait for a slot."""
        ...

    @property
    def most(self) -> int:
        """Questions that it takes at once, those that wait included."""
        ...

    def slots(self) -> Sequence[SlotView]:
        """All of them, in order."""
        ...

    def ask(self, question: Question) -> Answer:
        """Queue a question. Raises RequestError, ContextError or BusyError at once where it can never be answered."""
        ...

    def backs(self) -> Sequence[BackView]: ...
