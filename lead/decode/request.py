"""One answer, from its arrival to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from duo.errors import DuoError
from duo.sampling.logprobs import Logprobs
from duo.sampling.params import SamplingParams
from duo.sampling.thinking import ThinkingLimit
from lead.decode.session import Session, Step
from lead.decode.slots import Slot
from lead.plan.speedup import Gain

Status = Literal["waiting", "reading", "answering", "ended"]


@dataclass(slots=True, eq=False)
class Request:
    """One answer to generate. The decoder calls `on_step` and `on_end` from its own thread.

    `stop_tokens`: tokens that end the answer, beside the model's own. `thinking`: the limit on
    thinking. `top_logprobs`: as in `Session`. `owner`: whose text the answer may be guessed from.
    """

    prompt: Sequence[int]
    sampling: SamplingParams
    max_tokens: int
    ignore_eos: bool
    on_step: Callable[[Step], None]
    on_end: Callable[[DuoError | None], None]
    stop_tokens: Collection[int] = ()
    thinking: ThinkingLimit | None = None
    top_logprobs: int | None = None
    owner: str = ""
    prompt_logprobs: list[Logprobs] | None = None
    """Of the prompt's tokens but the first, as far as they have been read; None if nobody asked for them."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    status: Status = "waiting"
    session: Session = field(init=False, repr=False)
    """Set when the request is admitted, as `slot` is."""
    slot: Slot = field(init=False, repr=False)
    cached_tokens: int = 0
    """Tokens of the prompt that the cache held already."""
    read_tokens: int = 0
    """Tokens of the prompt that are in the cache by now."""
    submitted: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    """When it got its slot."""
    answering: float = 0.0
    """When its prompt was read. If the same forward pass gave the first token, one usual step before its end."""
    stepped: float = 0.0
    """When it had its last step; before the first one, when it got its slot."""
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    gain: Gain = field(default_factory=Gain)
    """What backs brought it."""

    @property
    def tokens(self) -> list[int]:
        """The prompt and the tokens committed so far."""
        return self.session.prefix.tokens

    @property
    def unread(self) -> int:
        """Tokens of the prompt to read before the first step, which takes the last one as a row."""
        return self.session.prompt_length - 1 - self.read_tokens

    @property
    def scores(self) -> bool:
        """Whether the log probabilities of some prompt tokens are still to be found."""
        return self.prompt_logprobs is not None and self.unread > 0
