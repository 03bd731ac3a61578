"""The back's side of the protocol: bytes in, events out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from duo.engines.meaning import MAX_DIFFERING, MAX_MEANING_BYTES, describe, trimmed
from duo.errors import ProtocolError, RefusedError
from duo.guesses import Expansion, Share
from duo.prefix import Prefix
from duo.v1 import duo_pb2 as pb
from duo.wire.clock import ClockOffset
from duo.wire.messages import (
    _STATE_NAMES,
    COMPARED_WITHIN,
    LOST_AFTER,
    MAX_ENDS,
    MAX_EXPANSIONS,
    MAX_KNOWN,
    MEANINGS_BYTES,
    PING_EVERY,
    STATUS_EVERY,
    VERSION,
    Begun,
    CommittedTokens,
    Ended,
    Event,
    Identity,
    State,
    Welcomed,
    _from_wire,
    _parse,
    _printable,
)


class BackSide:
    """The lead, seen from a back."""

    def __init__(self, me: Identity, now: float, probes: int = 0) -> None:
        """`probes`: so many pings follow one another right after the Welcome, to learn how far the clocks are apart."""
        self._me = me
        self._pongs: list[int] = []
        self._pinged = now
        self._ping_value: int | None = None
        self._probes = probes
        self.state: State = "waiting"
        """What the back is doing: the lead is told."""
        self._told: State = "waiting"
        self._told_at = float("-inf")
        self.offset = ClockOffset()
        self.heard = now
        self.welcomed = False
        self._size = me.vocabulary_size
        """Tokens of the lead's vocabulary."""
        self._compared: int | None = None
        """Tokens that the lead wants to compare, and how many of them have been told."""
        self._described = 0

    def hello(self, known: Sequence[tuple[int, Prefix]]) -> bytes:
        """The first message of a stream; `known`: sessions that the back still holds, newest last."""
        return pb.BackMessage(
            hello=pb.Hello(
                protocol_version=VERSION,
                name=self._me.name,
                model=self._me.model,
                vocabulary_fingerprint=self._me.fingerprint,
                vocabulary_size=self._me.vocabulary_size,
                known=[pb.Known(session=s, length=len(p), hash=p.hash) for s, p in known[-MAX_KNOWN:]],
            )
        ).SerializeToString()

    def receive(self, data: bytes, now: float) -> Event | None:
        """Take in a message. Raises RefusedError if the lead refuses, ProtocolError if it makes no sense."""
        message = pb.LeadMessage()
        _parse(message, data)
        self.heard = now
        kind = message.WhichOneof("kind")
        if kind == "refusal":
            why = _printable(message.refusal.message, 500) or "it does not say why"
            raise RefusedError(why, message.refusal.reason)
        if not self.welcomed:
            if kind == "compare" and self._compared is None:
                self._compared = min(message.compare.tokens, trimmed(self._me.meanings))
                return None
            if kind != "welcome":
                raise ProtocolError(f"the lead's first message must be a Welcome, not {kind or 'an empty one'}")
            return self._welcome(message.welcome)
        if kind == "begin":
            sampling = _from_wire(message.begin.sampling)
            self._check(sampling.logit_bias)
            begin = message.begin
            if begin.turn >= max(1, begin.backs):
                raise ProtocolError(f"the lead says that this is back {begin.turn} of {begin.backs}")
            if len(begin.ends) > MAX_ENDS:
                raise ProtocolError(f"{len(begin.ends)} tokens end an answer, at most {MAX_ENDS} may")
            self._check(begin.ends)
            turn = Share(begin.turn, max(1, begin.backs))
            return Begun(begin.session, sampling, begin.prompt_length, turn, tuple(begin.ends))
        if kind == "commit":
            commit = message.commit
            self._check(commit.tokens)
            return CommittedTokens(commit.session, commit.start, list(commit.tokens), commit.more)
        if kind == "end":
            return Ended(message.end.session)
        if kind == "ping":
            if len(self._pongs) < 8:
                self._pongs.append(message.ping.value)
        elif kind == "pong":
            if message.pong.value == self._ping_value:
                if message.pong.clock:
                    self.offset.answered(self._ping_value / 1e9, now, message.pong.clock / 1e9)
                self._ping_value = None
        else:
            raise ProtocolError(f"unexpected message: {kind or 'an empty one'}")
        return None

    def _welcome(self, welcome: pb.Welcome) -> Welcomed:
        differing, meanings = tuple(welcome.differing), self._me.meanings
        if len(differing) > MAX_DIFFERING or any(a >= b for a, b in pairwise(differing)):
            raise ProtocolError(f"the lead names {len(differing)} tokens that differ, in no order or too many")
        if len(welcome.first) > MAX_MEANING_BYTES:
            raise ProtocolError(f"a token means more than {MAX_MEANING_BYTES} bytes")
        self.welcomed = True
        self._size = welcome.vocabulary_size or self._me.vocabulary_size
        difference = ""
        if self._compared is not None:
            first = differing[0] if differing else None
            here = meanings[first] if first is not None and first < len(meanings) else b""
            difference = describe(len(differing), welcome.compared, first, welcome.first, here)
        return Welcomed(_printable(welcome.name), _printable(welcome.model), self._size, differing, difference)

    def _check(self, tokens: Iterable[int]) -> None:
        if any(token >= self._size for token in tokens):
            raise ProtocolError(f"the lead names a token outside its vocabulary of {self._size}")

    def send(self, now: float) -> Iterator[bytes]:
        """Answers to pings, what the tokens mean if that was asked, and when it is time what the back is doing, and a
        ping of our own."""
        yield from self._describe()
        while self._pongs:
            pong = pb.Pong(value=self._pongs.pop(0), clock=int(now * 1e9))
            yield pb.BackMessage(pong=pong).SerializeToString()
        if self.welcomed and self.state != self._told and now - self._told_at >= STATUS_EVERY:
            self._told, self._told_at = self.state, now
            yield self.status(self.state)
        due = now - self._pinged >= PING_EVERY
        probing = self._probes > 0 and self._ping_value is None
        if self.welcomed and (due or probing):
            self._pinged = now
            self._probes -= probing
            self._ping_value = int(now * 1e9)
            yield pb.BackMessage(ping=pb.Ping(value=self._ping_value)).SerializeToString()

    def _describe(self) -> Iterator[bytes]:
        while self._compared is not None and not self.welcomed and self._described <= self._compared:
            start, size, meanings = self._described, 0, list[bytes]()
            for meaning in itertools.islice(self._me.meanings, start, self._compared):
                if size > MEANINGS_BYTES:
                    break
                meanings.append(meaning)
                size += len(meaning) + 2
            end = start + len(meanings)
            more = end < self._compared
            # One past the end says that all has been told.
            self._described = end if more else self._compared + 1
            message = pb.Meanings(start=start, meanings=meanings, more=more)
            yield pb.BackMessage(meanings=message).SerializeToString()

    def lost(self, now: float) -> bool:
        comparing = self._compared is not None and not self.welcomed  # meanwhile the lead has nothing to say
        return now - self.heard >= (COMPARED_WITHIN if comparing else LOST_AFTER)

    @staticmethod
    def guesses(found: Mapping[int, Sequence[Expansion]]) -> Iterator[bytes]:
        """What was found of each session, in as few messages as will do."""
        message, room = pb.BackMessage(guesses=pb.Guesses()), MAX_EXPANSIONS
        for session, expansions in found.items():
            rest = [
                pb.Expansion(length=e.length, hash=e.hash, tokens=e.tokens, probabilities=e.probabilities)
                for e in expansions
            ]
            while rest:
                message.guesses.sessions.add(session=session, expansions=rest[:room])
                rest, room = rest[room:], max(0, room - len(rest))
                if not room:
                    yield message.SerializeToString()
                    message, room = pb.BackMessage(guesses=pb.Guesses()), MAX_EXPANSIONS
        if room < MAX_EXPANSIONS:
            yield message.SerializeToString()

    @staticmethod
    def status(state: State) -> bytes:
        return pb.BackMessage(status=pb.Status(state=_STATE_NAMES[state])).SerializeToString()
