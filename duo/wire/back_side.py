"""The lead, as a back sees it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from duo.engines.meaning import MAX_DIFFERING, MAX_MEANING_BYTES, SAMPLED, Sample, describe, trimmed
from duo.errors import ProtocolError, RefusedError
from duo.guesses import Expansion, Share
from duo.prefix import Prefix
from duo.v1 import duo_pb2 as pb
from duo.wire import messages
from duo.wire.clock import ClockOffset
from duo.wire.codec import parse, printable, sampling_from_wire, status_to_wire
from duo.wire.pings import Pings


class BackSide:
    """One stream to the lead, from `hello` to its end."""

    def __init__(self, me: messages.Identity, now: float, probes: int = 0, looks: bool = False) -> None:
        """`probes`: quick pings right after the Welcome, which measure the distance between the two clocks.

        looks: the back has no model yet. It wants to see the target's vocabulary, and the stream ends with a refusal.
        """
        self._me = me
        self._looks = looks
        self.target: Sample | None = None
        """Shows the target's vocabulary, once the lead has refused this one."""
        self._pings = Pings(now, probes)
        self.state: messages.State = "waiting"
        """What the back is doing; `send` reports it to the lead."""
        self._sent_state: messages.State = "waiting"
        self._sent_state_at = float("-inf")
        self.offset = ClockOffset()
        self.received_at = now
        """When the last message came."""
        self.welcomed = False
        self.waits = False
        """No model with this vocabulary is loaded now. The lead keeps the stream."""
        self._size = me.vocabulary_size
        """Tokens of the lead's vocabulary."""
        self._to_describe: int | None = None
        """How many tokens the lead wants to compare; None if it did not ask."""
        self._described = 0

    def hello(self, known: Sequence[tuple[int, Prefix]]) -> bytes:
        """The first message of a stream. `known`: the sessions that the back still holds, newest last."""
        return pb.BackMessage(
            hello=pb.Hello(
                protocol_version=messages.VERSION,
                name=self._me.name,
                model=self._me.model,
                vocabulary_fingerprint=self._me.fingerprint,
                vocabulary_size=self._me.vocabulary_size,
                looks=self._looks,
                hears_benefit=True,
                known=[pb.Known(session=s, length=len(p), hash=p.hash) for s, p in known[-messages.MAX_KNOWN :]],
            )
        ).SerializeToString()

    def receive(
        self, data: bytes, now: float
    ) -> messages.Event | messages.PingCame | messages.WaitCame | messages.BenefitCame | None:
        """Take in a message. Raises RefusedError if the lead refuses, ProtocolError if it makes no sense."""
        message = parse(pb.LeadMessage(), data)
        self.received_at = now
        kind = message.WhichOneof("kind")
        if kind == "refusal":
            why = printable(message.refusal.message, 500) or "it does not say why"
            if message.refusal.HasField("target"):
                self.target = _shown(message.refusal.target)
            raise RefusedError(why, message.refusal.reason)
        if not self.welcomed:
            return self._unwelcomed(message, kind)
        match kind:
            case "begin":
                return self._begin(message.begin)
            case "commit":
                commit = message.commit
                self._check(commit.tokens)
                return messages.CommittedTokens(commit.session, commit.start, list(commit.tokens), commit.more)
            case "end":
                return messages.Ended(message.end.session)
            case "benefit":
                return messages.BenefitCame(printable(message.benefit.message, 500))
            case "ping":
                self._pings.came(message.ping.value)
                return messages.PingCame()
            case "pong":
                sent = self._pings.answered(message.pong.value)
                if sent is not None and message.pong.clock:
                    self.offset.answered(sent, now, message.pong.clock / 1e9)
                return None
            case _:
                raise ProtocolError(f"unexpected message: {kind or 'an empty one'}")

    def _unwelcomed(
        self, message: pb.LeadMessage, kind: str | None
    ) -> messages.Welcomed | messages.WaitCame | messages.PingCame | None:
        match kind:
            case "welcome":
                return self._welcome(message.welcome)
            case "compare" if self._looks:
                raise ProtocolError("it is of an older release and does not show its vocabulary: give a draft with -m")
            case "compare" if self._to_describe is None:
                self._to_describe = min(message.compare.tokens, trimmed(self._me.meanings))
                return None
            case "wait":
                self.waits = True
                return messages.WaitCame(printable(message.wait.message, 500))
            case "ping" if self.waits:
                self._pings.came(message.ping.value)
                return messages.PingCame()
            case _:
                raise ProtocolError(f"the lead's first message must be a Welcome, not {kind or 'an empty one'}")

    def _welcome(self, welcome: pb.Welcome) -> messages.Welcomed:
        differing, meanings = tuple(welcome.differing), self._me.meanings
        if len(differing) > MAX_DIFFERING or any(a >= b for a, b in pairwise(differing)):
            raise ProtocolError(f"the lead names {len(differing)} tokens that differ, in no order or too many")
        if len(welcome.first) > MAX_MEANING_BYTES:
            raise ProtocolError(f"a token means more than {MAX_MEANING_BYTES} bytes")
        self.welcomed = True
        self._size = welcome.vocabulary_size or self._me.vocabulary_size
        difference = ""
        if self._to_describe is not None:
            first = differing[0] if differing else None
            here = meanings[first] if first is not None and first < len(meanings) else b""
            difference = describe(len(differing), welcome.compared, first, welcome.first, here)
        return messages.Welcomed(printable(welcome.name), printable(welcome.model), self._size, differing, difference)

    def _begin(self, begin: pb.Begin) -> messages.Begun:
        sampling = sampling_from_wire(begin.sampling)
        self._check(sampling.logit_bias)
        backs = max(1, begin.backs)
        if begin.turn >= backs:
            raise ProtocolError(f"the lead says that this is back {begin.turn} of {begin.backs}")
        if len(begin.ends) > messages.MAX_ENDS:
            raise ProtocolError(f"{len(begin.ends)} tokens end an answer, at most {messages.MAX_ENDS} may")
        self._check(begin.ends)
        return messages.Begun(begin.session, sampling, begin.prompt_length, Share(begin.turn, backs), tuple(begin.ends))

    def _check(self, tokens: Iterable[int]) -> None:
        if any(token >= self._size for token in tokens):
            raise ProtocolError(f"the lead names a token outside its vocabulary of {self._size}")

    def send(self, now: float) -> Iterator[bytes]:
        """The messages that are due: meanings that the lead asked for, pongs, a Status and a ping."""
        yield from self._describe()
        for value in self._pings.answers():
            yield pb.BackMessage(pong=pb.Pong(value=value, clock=int(now * 1e9))).SerializeToString()
        if not self.welcomed:
            return
        if self.state != self._sent_state and now - self._sent_state_at >= messages.STATUS_EVERY:
            self._sent_state, self._sent_state_at = self.state, now
            yield status_to_wire(self.state)
        if (ping := self._pings.due(now)) is not None:
            yield pb.BackMessage(ping=pb.Ping(value=ping)).SerializeToString()

    def _describe(self) -> Iterator[bytes]:
        while self._to_describe is not None and not self.welcomed and self._described <= self._to_describe:
            start, size, meanings = self._described, 0, list[bytes]()
            for meaning in itertools.islice(self._me.meanings, start, self._to_describe):
                if size > messages.MEANINGS_BYTES:
                    break
                meanings.append(meaning)
                size += len(meaning) + 2
            end = start + len(meanings)
            more = end < self._to_describe
            # One past the end: all has been sent.
            self._described = end if more else self._to_describe + 1
            message = pb.Meanings(start=start, meanings=meanings, more=more)
            yield pb.BackMessage(meanings=message).SerializeToString()

    def guesses(self, found: Mapping[int, Sequence[Expansion]]) -> Iterator[bytes]:
        """Messages with what was found for each session, as few as possible. Any thread may call it."""
        message, capacity = pb.BackMessage(guesses=pb.Guesses()), messages.MAX_EXPANSIONS
        for session, expansions in found.items():
            rest = [
                pb.Expansion(length=e.length, hash=e.hash, tokens=e.tokens, probabilities=e.probabilities)
                for e in expansions
            ]
            while rest:
                message.guesses.sessions.add(session=session, expansions=rest[:capacity])
                rest, capacity = rest[capacity:], max(0, capacity - len(rest))
                if not capacity:
                    yield message.SerializeToString()
                    message, capacity = pb.BackMessage(guesses=pb.Guesses()), messages.MAX_EXPANSIONS
        if capacity < messages.MAX_EXPANSIONS:
            yield message.SerializeToString()

    def lost(self, now: float) -> bool:
        # While it compares vocabularies the lead has nothing to say.
        comparing = self._to_describe is not None and not self.welcomed
        return now - self.received_at >= (messages.COMPARED_WITHIN if comparing else messages.LOST_AFTER)


def _shown(target: pb.Vocabulary) -> Sample | None:
    """A vocabulary that a refusal shows; None if that makes no sense."""
    meanings = list(target.sample)
    sizes = 0 < len(meanings) <= min(SAMPLED, target.tokens) and target.tokens <= messages.MAX_VOCABULARY
    if not sizes or any(len(meaning) > MAX_MEANING_BYTES for meaning in meanings):
        return None
    return Sample(printable(target.fingerprint), target.tokens, meanings, target.model_bytes)
