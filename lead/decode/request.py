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
from lead.decode.session import Session, Step
from lead.decode.slots import Slot

State = Literal["waiting", "reading", "answering", "ended"]


@dataclass(slots=True, eq=False)
class Job:
    """One answer to generate. The decoder calls `on_step` and `on_end` from its own thread."""

    prompt: Sequence[int]
    sampling: SamplingParams
    max_tokens: int
    ignore_eos: bool
    on_step: Callable[[Step], None]
    on_end: Callable[[DuoError | None], None]
    stop_tokens: Collection[int] = ()
    """Tokens that end the answer beside the model's own."""
    top_logprobs: int | None = None
    prompt_logprobs: list[Logprobs] | None = None
    """Where it is asked how likely the prompt is: of its tokens but the first, as far as they have been read."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    state: State = "waiting"
    session: Session | None = None
    cached_tokens: int = 0
    read_tokens: int = 0
    """Of the prompt, those that are in the cache by now."""
    submitted: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    answering: float = 0.0
    """When it got its slot, and when its prompt was read. Of a forward pass that read the end of it and gave the first
    token too, so much counts as decoding as a step took lately."""
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Run:
    """An answer under way."""

    job: Job
    session: Session
    slot: Slot
    stepped: float
    """When it had its last step; its slot, if it has had none."""

    @property
    def prompt(self) -> list[int]:
        """The tokens of its prompt, and those that it has committed."""
        return self.session.prefix.tokens

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are to be read before the first step, which is given the last one as a row."""
        return self.session.prompt_length - 1 - self.job.read_tokens

    @property
    def scores(self) -> bool:
        """Whether there are tokens of the prompt left of which it is asked how likely they are."""
        return self.job.prompt_logprobs is not None and self.unread > 0
