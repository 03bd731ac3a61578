"""What lead and back may say to each other: the limits of the protocol, and the events that come out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from duo.engines.meaning import MAX_MEANING_BYTES, Meanings
from duo.guesses import ALONE, Expansion, Share
from duo.sampling.params import SamplingParams

VERSION = 3

METHOD = "/duo.v1.Duo/Draft"

MAX_MESSAGE_BYTES = 256 * 1024

MAX_COMMIT_TOKENS = 4096
"""Tokens in one Commit. A long prompt takes several."""

MAX_BIASES = 8192
"""Entries of a logit bias, which travels in one Begin."""

MAX_EXPANSIONS = 256

MAX_CHILDREN = 8

MAX_KNOWN = 64

MAX_ENDS = 256
"""Tokens that end an answer."""

MAX_WAITING_PINGS = 8
"""Pings that wait for their pong. A flood of them is not stored."""

MEANINGS_BYTES = 32 * 1024
"""A message of meanings is about this long."""

MIN_MEANINGS = MEANINGS_BYTES // (MAX_MEANING_BYTES + 2)
"""Meanings in a message that is not the last one."""

MIN_MESSAGE_BYTES = MEANINGS_BYTES + 4096
"""Room for the longest message of a back: meanings of tokens, or `MAX_EXPANSIONS`."""

MAX_NAME = 128

PING_EVERY = 1.0

LOOK_EVERY = 0.25
"""Seconds between two looks at the clock: is a ping due, and is the other side silent for too long?"""

STATUS_EVERY = 0.25
"""Seconds between two Status messages. A back that starts and stops with every commit does not report each change."""

SILENT_AFTER = 3.0

LOST_AFTER = 15.0
"""Seconds without a message from the other side. Then the stream ends."""

MAX_VOCABULARY = 1 << 24
"""Tokens of a vocabulary at most. The largest ones have some 2^18."""

COMPARED_WITHIN = 300.0
"""Seconds that a back has to send all meanings. 262,144 tokens take this long at 64 kbit/s."""

State = Literal["waiting", "catching up", "drafting"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who someone is: a name, a model, and the vocabulary that its token ids belong to.

    Equal fingerprints mean equal vocabularies. The size includes padding. `meanings`: what each token stands for, to
    compare vocabularies that are not equal. `model_bytes`: of the model's files; 0 if that is not known.
    """

    name: str
    model: str
    fingerprint: str
    vocabulary_size: int
    meanings: Meanings = field(default=(), compare=False, repr=False)
    model_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class PingCame:
    """The other side waits for a pong: `send` has one."""


# What a back hears.


@dataclass(frozen=True, slots=True)
class WaitCame:
    """No model with this back's vocabulary is loaded now, and one may come. `message`: one line for people."""

    message: str


@dataclass(frozen=True, slots=True)
class BenefitCame:
    """Backs rest from now on, or work again. `message`: one line for people, with the speed with them and without."""

    message: str


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The lead takes this back, under this name.

    `vocabulary_size`: of the target, with padding. `differing`: tokens with another meaning for the back, ascending.
    `difference`: one line about them for people; empty for equal vocabularies.
    """

    name: str
    model: str
    vocabulary_size: int
    differing: Sequence[int] = ()
    difference: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """A session exists. `share`: this back's part of the drafting. `ends`: tokens that end the answer."""

    session: int
    sampling: SamplingParams
    prompt_length: int
    share: Share = ALONE
    ends: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class CommittedTokens:
    """Tokens of the session from `start` on are final. `more`: further ones follow at once."""

    session: int
    start: int
    tokens: Sequence[int]
    more: bool


@dataclass(frozen=True, slots=True)
class Ended:
    session: int


Event = Welcomed | Begun | CommittedTokens | Ended
"""What the drafting of a back depends on."""


# What the lead hears.


@dataclass(frozen=True, slots=True)
class Guessed:
    """Guesses of a back, by session id. `count`: how many, for its allowance.

    The expansions are made while they are iterated, once. A reader who stops early has not paid for the rest.
    """

    count: int
    sessions: Sequence[tuple[int, Iterable[Expansion]]]


@dataclass(frozen=True, slots=True)
class StatusCame:
    """What the back is doing now."""

    state: State
