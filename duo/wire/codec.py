"""Messages in protocol buffers: parsed with bounds and one-line errors, and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from duo.errors import ProtocolError
from duo.guesses import Expansion
from duo.sampling.params import SamplingParams
from duo.v1 import duo_pb2 as pb
from duo.wire.messages import MAX_CHILDREN, MAX_EXPANSIONS, MAX_MESSAGE_BYTES, MAX_NAME, Guessed, State

M = TypeVar("M", bound=Message)

STATES: Mapping[int, State] = {
    pb.Status.STATE_WAITING: "waiting",
    pb.Status.STATE_CATCHING_UP: "catching up",
    pb.Status.STATE_DRAFTING: "drafting",
}

_STATE_NAMES = {state: pb.Status.State.Name(number) for number, state in STATES.items()}

_SAMPLING_FIELDS = [field.name for field in fields(SamplingParams)]


def parse(message: M, data: bytes) -> M:
    """Raises ProtocolError for bytes that are not this message."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ProtocolError("a message that is not protocol buffers of duo.v1: is the other side duo?") from None
    return message


def printable(text: str, longest: int = MAX_NAME) -> str:
    """Text from the network, safe for a terminal and a log line."""
    return "".join(c if c.isprintable() else "?" for c in text[:longest])


def kind_of(lead_message: bytes) -> str | None:
    """The kind of a message from `LeadSide.send`, for a trace."""
    kind: str | None = pb.LeadMessage.FromString(lead_message).WhichOneof("kind")
    return kind


def sampling_to_wire(params: SamplingParams) -> pb.Sampling:
    values: dict[str, Any] = {name: getattr(params, name) for name in _SAMPLING_FIELDS}
    return pb.Sampling(**{**values, "logit_bias": dict(params.logit_bias)})


def sampling_from_wire(sampling: pb.Sampling) -> SamplingParams:
    """Raises ProtocolError for values that no lead would send."""
    values: dict[str, Any] = {name: getattr(sampling, name) for name in _SAMPLING_FIELDS}
    try:
        return SamplingParams(**{**values, "logit_bias": dict(sampling.logit_bias)})
    except Exception as error:
        raise ProtocolError(f"the lead sent impossible sampling parameters: {error}") from None


def status_to_wire(state: State) -> bytes:
    return pb.BackMessage(status=pb.Status(state=_STATE_NAMES[state])).SerializeToString()


def guesses_from_wire(guesses: pb.Guesses, vocabulary_size: int) -> Guessed:
    """Raises ProtocolError for too many expansions, or one that no draft model could have made."""
    number = expansion_count(guesses)
    if number > MAX_EXPANSIONS:
        raise ProtocolError(f"{number} expansions in a message, {MAX_EXPANSIONS} are allowed")
    for of in guesses.sessions:
        for expansion in of.expansions:
            tokens, count = expansion.tokens, len(expansion.tokens)
            if count > MAX_CHILDREN or count != len(expansion.probabilities):
                chances = len(expansion.probabilities)
                raise ProtocolError(f"an expansion of {count} tokens and {chances} probabilities")
            if count and max(tokens) >= vocabulary_size:
                raise ProtocolError(f"a guessed token is outside the vocabulary of {vocabulary_size}")
    return Guessed(guess_count(guesses), [(of.session, _expansions(of.expansions)) for of in guesses.sessions])


def _expansions(expansions: Iterable[pb.Expansion]) -> Iterator[Expansion]:
    for e in expansions:
        yield Expansion(e.length, e.hash, e.tokens, e.probabilities)


def expansion_count(guesses: pb.Guesses) -> int:
    """Expansions in a message. Each session counts as one at least: an empty one costs the lead work as well."""
    return max(1, sum(max(1, len(of.expansions)) for of in guesses.sessions))


def guess_count(guesses: pb.Guesses) -> int:
    """Guessed tokens in a message. Each expansion counts as one at least, and so does each session."""
    return max(1, sum(max(1, sum(max(1, len(e.tokens)) for e in of.expansions)) for of in guesses.sessions))
