"""What the HTTP side and the console know of answering: questions in, pieces of an answer out.

The decode loop is behind `Answerer`. Nothing here knows how tokens are made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from duo.engines.base import Vocabulary
from duo.sampling.logprobs import Logprobs
from duo.sampling.params import SamplingParams
from duo.sampling.thinking import ThinkingLimit
from lead.decode.session import FinishReason as FinishReason
from lead.decode.session import Tally as Tally
from lead.plan.speedup import Benefit as Benefit
from lead.plan.speedup import Speedup as Speedup


@dataclass(frozen=True, slots=True)
class ThinkingMarks:
    """How a model marks its thinking.

    begun: the answer begins within thinking. anywhere: whether thinking may begin after other text.
    """

    opens: Sequence[str] = ()
    closes: Sequence[str] = ()
    begun: bool = False
    anywhere: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """Asks for one answer to the tokens of a prompt.

    max_tokens: None means until the model ends the answer or the context is full.
    stop: strings that end the answer and are not a part of it.
    stop_names: the special tokens in `stop`, as `lead.answers.text.special_in` finds them.
    stop_tokens: tokens that end the answer and add nothing to its text.
    turns: what begins somebody's turn, where the prompt writes turns as plain text. It ends the answer as an end token
        does.
    marks: special tokens whose names are a part of the answer's text, by id.
    thinking: the limit on the model's thinking, if there is one.
    thinking_marks: where thinking begins and ends, for those who watch the answer.
    top_logprobs: how many of the likeliest tokens to report with each token. 0 reports only the token's own log
        probability, None reports nothing.
    prompt_logprobs: whether to report the same for the tokens of the prompt.
    continues: whether the answer continues the text of the prompt. It may then begin with a space.
    streamed: whether somebody reads the answer as it comes.
    owner: whose text the answer may be guessed from. It stands for the API key of the request.
    """

    prompt: Sequence[int]
    sampling: SamplingParams
    max_tokens: int | None = None
    ignore_eos: bool = False
    stop: Sequence[str] = ()
    stop_names: Mapping[int, str] = field(default_factory=dict)
    stop_tokens: Sequence[int] = ()
    turns: Sequence[str] = ()
    marks: Mapping[int, str] = field(default_factory=dict)
    thinking: ThinkingLimit | None = None
    thinking_marks: ThinkingMarks = field(default_factory=ThinkingMarks)
    top_logprobs: int | None = None
    prompt_logprobs: bool = False
    continues: bool = False
    streamed: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token that became final.

    text: empty if the token completes no character. A text that may begin a stop string is held back until it is clear
        that it does not.
    backs: who guessed the token; empty for the target's own token.
    rejected: the text of the wrong guess that the same forward pass verified after this token, for the console.
    token: None if this is text alone, the part of a token before a stop string.
    thought: whether it is thinking. Only observers that read are told.
    """

    text: str
    backs: tuple[str, ...] = ()
    rejected: str = ""
    token: int | None = None
    logprobs: Logprobs | None = None
    thought: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a finished answer.

    drafted: guesses that the target verified. stop_string: the one of `Question.stop` that ended the answer, if any.
    speedup: over the target alone; None if that is not known.
    """

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
    backs: Mapping[str, Tally] = field(default_factory=dict)
    stop_string: str = ""
    speedup: Speedup | None = None


class Answer(Protocol):
    """An answer under way. Iterate over its batches of pieces, then read the summary."""

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        """One for each prompt token but the first, if the question asks for them. Complete with the first piece."""

    @property
    def summary(self) -> Summary:
        """Available after the iteration has ended."""

    def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        """Yields batches of pieces, each of one step or more. Raises DuoError if the answer cannot go on."""

    def cancel(self) -> None:
        """Stops the answer after the current forward pass. Does nothing if the answer is finished."""


CLIENT_GONE = 499
"""nginx's status for a client that went away. Nobody is left to read it."""


class Observer:
    """Hears of every answer, in the event loop. This one ignores it all.

    `answer` is the answer's number. After `began`, exactly one of `finished` and `failed` follows.
    """

    reads = False
    """Whether it wants the pieces as soon as they exist."""

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


BackState = Literal["waiting", "catching up", "drafting", "resting", "silent"]
"""waiting: nothing to draft. resting: the lead lets it rest, because the target is faster alone."""

SlotState = Literal["idle", "reading", "answering"]


@dataclass(frozen=True, slots=True)
class BackView:
    """A connected back, for people. `round_trip_ms` is None until it is measured."""

    name: str
    model: str
    state: BackState
    round_trip_ms: float | None
    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class SlotView:
    """What one slot of the target model does, for people. An idle slot still holds the cache of its last answer."""

    id: int
    state: SlotState
    prompt_tokens: int = 0
    prompt_read: int = 0
    """How many tokens of the prompt are in the cache by now."""
    completion_tokens: int = 0
    tokens_per_second: float = 0.0
    """Mean of this answer so far."""


@dataclass(frozen=True, slots=True)
class SlotFile:
    """A slot that was saved to a file or restored from one: its tokens, the bytes of the file, and how long it took."""

    tokens: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CacheView:
    """The prompts that left their slots and are kept: how many, and their bytes. hits: how often one was brought back.
    tokens: how many tokens did not have to be read again for that."""

    prompts: int = 0
    bytes: int = 0
    hits: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The target model, and how it is served.

    created: when it was loaded: Unix time, seconds.
    runtime: 'transformers' or 'llamacpp'.
    context: tokens that one slot holds.
    vocabulary: safe to use from the event loop.
    speculates: whether guesses are ever verified.
    exactness: a line for people: whether a text always has the same bits, and what that costs.
    max_questions: how many questions the lead takes at once, including those that wait.
    sampling: fields of `SamplingParams` that the model's makers suggest.
    """

    name: str
    created: int
    runtime: str
    context: int
    vocabulary: Vocabulary
    speculates: bool
    exactness: str
    max_questions: int
    sampling: Mapping[str, float] = field(default_factory=dict)


class Answerer(Protocol):
    """What the HTTP side asks."""

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""

    @property
    def info(self) -> ModelInfo:
        """The model and how it is served. Raises RuntimeError while it is loading."""

    @property
    def waiting(self) -> int:
        """Questions that wait for a slot."""

    def slots(self) -> Sequence[SlotView]:
        """All slots, in order."""

    def ask(self, question: Question) -> Answer:
        """Queues a question. Raises RequestError, ContextError or BusyError if it will not be answered."""

    def backs(self) -> Sequence[BackView]: ...

    @property
    def benefit(self) -> Benefit | None:
        """What the backs bring; None while that is not known."""

    @property
    def cache(self) -> CacheView:
        """Prompts that left their slots."""

    async def save_slot(self, slot: int, filename: str) -> SlotFile:
        """Writes what an idle slot holds to a file. Raises RequestError, BusyError or ContextError, or another DuoError
        if it cannot be written."""

    async def restore_slot(self, slot: int, filename: str) -> SlotFile:
        """Lets an idle slot hold what a file says. Raises RequestError, BusyError or ContextError."""

    async def erase_slot(self, slot: int) -> int:
        """Empties an idle slot. Returns how many tokens it held. Raises BusyError."""
