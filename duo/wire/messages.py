"""What lead and back say to each other: events, limits, and their form on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from google.protobuf.message import DecodeError, Message

from duo.engines.meaning import MAX_MEANING_BYTES, Meanings
from duo.errors import ProtocolError
from duo.guesses import ALONE, Expansion, Share
from duo.sampling.params import SamplingParams
from duo.v1 import duo_pb2 as pb

VERSION = 3

METHOD = "/duo.v1.Duo/Draft"

MAX_MESSAGE_BYTES = 256 * 1024

COMMIT_TOKENS = 4096
"""Most tokens in one Commit: a long prompt goes in several."""

MAX_BIASES = 8192
"""Most entries of a logit bias, which goes in one Begin."""

MAX_EXPANSIONS = 256

MAX_CHILDREN = 8

MAX_KNOWN = 64

MAX_ENDS = 256
"""Most tokens that end an answer."""

MEANINGS_BYTES = 32 * 1024
"""Meanings of tokens go in messages of about so many bytes."""

LEAST_MEANINGS = MEANINGS_BYTES // (MAX_MEANING_BYTES + 2)
"""Of tokens in such a message, if further ones follow."""

LEAST_MESSAGE_BYTES = MEANINGS_BYTES + 4096
"""What the longest message of a back needs: meanings of tokens, or `MAX_EXPANSIONS`."""

MAX_NAME = 128

PING_EVERY = 1.0

LOOK_EVERY = 0.25
"""How often it is looked whether a ping is due, and whether the other side has been silent for too long."""

STATUS_EVERY = 0.25
"""A back that drafts on and off with every commit does not say so each time."""

SILENT_AFTER = 3.0

LOST_AFTER = 15.0
"""Seconds without a word from the other side after which the stream is given up."""

COMPARED_WITHIN = 300.0
"""Seconds until a back has said what all its tokens mean, at most: 262,144 tokens take that on a link of 64 kbit/s."""

State = Literal["waiting", "catching up", "drafting"]

_STATES: dict[int, State] = {
    pb.Status.STATE_WAITING: "waiting",
    pb.Status.STATE_CATCHING_UP: "catching up",
    pb.Status.STATE_DRAFTING: "drafting",
}

_STATE_NAMES = {name: pb.Status.State.Name(number) for number, name in _STATES.items()}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who someone is: its name, its model, and the vocabulary that its token ids mean. The fingerprint says whether two
    are the same; the size counts what pads one as well. `meanings`: of its own tokens, to compare them where they are
    not."""

    name: str
    model: str
    fingerprint: str
    vocabulary_size: int
    meanings: Meanings = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Welcomed:
    """`vocabulary_size`: of the target, with what pads it. `differing`: tokens that do not mean the same to the back,
    ascending; `difference` tells people of them, and is empty where the vocabularies are the same."""

    name: str
    model: str
    vocabulary_size: int
    differing: Sequence[int] = ()
    difference: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    session: int
    sampling: SamplingParams
    prompt_length: int
    turn: Share = ALONE
    ends: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class CommittedTokens:
    session: int
    start: int
    tokens: Sequence[int]
    more: bool


@dataclass(frozen=True, slots=True)
class Ended:
    session: int


Event = Welcomed | Begun | CommittedTokens | Ended


def expansion_count(guesses: pb.Guesses) -> int:
    """Expansions in a message, of each session at least one: what says nothing is work for the lead as well."""
    return max(1, sum(max(1, len(of.expansions)) for of in guesses.sessions))


def guess_count(guesses: pb.Guesses) -> int:
    """Guesses in a message: tokens, of each expansion at least one, and of each session."""
    return max(1, sum(max(1, sum(max(1, len(e.tokens)) for e in of.expansions)) for of in guesses.sessions))


def expansions(guesses: pb.SessionGuesses) -> Iterator[Expansion]:
    """The guesses for one session, of a message that `LeadSide.receive` has let through."""
    for e in guesses.expansions:
        yield Expansion(e.length, e.hash, e.tokens, e.probabilities)


def _parse(message: Message, data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ProtocolError("a message that is not protocol buffers of duo.v1: is the other side duo?") from None


def _printable(text: str, longest: int = MAX_NAME) -> str:
    """Text from the network, safe for a terminal and a log line."""
    return "".join(c if c.isprintable() else "?" for c in text[:longest])


def _to_wire(params: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=dict(params.logit_bias),
        seed=params.seed,
        grammar=params.grammar,
    )


def _from_wire(sampling: pb.Sampling) -> SamplingParams:
    """Raises ProtocolError for values that no lead would send."""
    try:
        return SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias),
            seed=sampling.seed,
            grammar=sampling.grammar,
        )
    except Exception as error:
        raise ProtocolError(f"the lead sent impossible sampling parameters: {error}") from None
