"""The protocol between lead and backs, without a socket in it.

Bytes of whole messages go in, events and bytes come out; time is an argument. `LeadSide` is one back as the lead sees
it, `BackSide` the lead as a back sees it. The gRPC shells around them are a reader and a writer each.

What the lead tells of sessions is kept as state: a `Ledger` of the sessions that are open, shared by all backs, and per
back how much of each it has been sent. What to send is the difference. So nothing queues up for a slow back, a late one
gets what it lacks, and one that comes back after a broken connection and says what it holds gets only the rest.

    back                                lead
    Hello  (version, vocabulary, known) ->
                                        <- Compare, if the vocabularies are not the same
    Meanings ...                        ->
                                        <- Welcome, or Refusal and the end of the stream
                                        <- Begin, Commit ..., End      for each session
    Guesses, Status                     ->
    Ping / Pong                         <-> at any time after Welcome
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from google.protobuf.message import DecodeError, Message

from duo.engines.meaning import LONGEST, MAX_DIFFERING, Comparison, Meanings, describe, trimmed
from duo.errors import ProtocolError, RefusedError
from duo.prefix import Prefix
from duo.sampling.sampler import SamplingParams
from duo.v1 import duo_pb2 as pb
from lead.plan.tree import ALONE, Expansion, Turn

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
LEAST_MEANINGS = MEANINGS_BYTES // (LONGEST + 2)
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
class Entry:
    """A session as the backs hear of it. The prefix grows while it is told."""

    session: int
    sampling: SamplingParams
    prompt_length: int
    prefix: Prefix
    backs: Sequence[str] = ()
    """Those who divide what is to be drafted between them."""
    ends: Sequence[int] = ()
    """The tokens that end the answer."""


class Ledger(dict[int, Entry]):
    """The open sessions by id, in the order in which they began.

    While `resting`, the backs are told that there are none, so that they do nothing.
    """

    resting = False


class ClockOffset:
    """How far the other side's clock is ahead of ours, from pings (Cristian's algorithm).

    The answer that took least time says it best: the other clock was read somewhere in between. What it said ages,
    because two clocks do not run at quite the same speed.
    """

    DRIFT = 20e-6
    """Seconds per second by which two clocks may part."""

    def __init__(self) -> None:
        self.ahead: float | None = None
        """Seconds to add to our clock for the other side's."""
        self.round_trip = float("inf")
        self._measured = 0.0

    def answered(self, sent: float, now: float, clock: float) -> bool:
        """To what was asked at `sent` the answer is here `now`: `clock`. Returns whether it is the best so far."""
        round_trip = max(0.0, now - sent)
        if round_trip / 2 > self.round_trip / 2 + self.DRIFT * (now - self._measured):
            return False
        self.ahead, self.round_trip, self._measured = clock - (sent + now) / 2, round_trip, now
        return True


class LeadSide:
    """One back, seen from the lead."""

    def __init__(self, me: Identity, ledger: Ledger, now: float) -> None:
        self._me = me
        self._ledger = ledger
        self._sent: dict[int, int] = {}
        self._known: dict[int, tuple[int, int]] = {}
        self._pongs: list[int] = []
        self._pinged = now
        self._ping_value: int | None = None
        self._welcomed = False
        self.heard = now
        self.back: Identity | None = None
        """Who the back is; None before its Hello."""
        self.greeted = False
        """Whether it is known that the back can work here."""
        self.comparison: Comparison | None = None
        """Of the vocabularies, where they are not the same."""
        self._compare_until = float("inf")
        self._asked = False
        self.state: State = "waiting"
        self.round_trip: float | None = None
        """Seconds, the last one measured."""

    def receive(self, data: bytes, now: float) -> pb.Guesses | None:
        """Take in a message; guesses are returned.

        Raises RefusedError for a back that cannot work here and ProtocolError for a message that makes no sense. The
        stream is over then: send `refusal(error)` and close it.
        """
        message = pb.BackMessage()
        _parse(message, data)
        self.heard = now
        kind = message.WhichOneof("kind")
        if self.back is None:
            if kind != "hello":
                raise ProtocolError(f"the first message must be a Hello, not {kind or 'an empty one'}")
            self._hello(message.hello, now)
        elif not self.greeted:
            if kind != "meanings":
                raise ProtocolError(f"what the tokens mean was asked for, and came {kind or 'an empty message'}")
            self._compare(message.meanings)
        elif kind == "guesses":
            self._check(message.guesses)
            return message.guesses
        elif kind == "status":
            self.state = _STATES.get(message.status.state, self.state)
        elif kind == "ping":
            if len(self._pongs) < 8:
                self._pongs.append(message.ping.value)
        elif kind == "pong":
            if message.pong.value == self._ping_value:
                self.round_trip = max(0.0, now - self._ping_value / 1e9)
                self._ping_value = None
        else:
            raise ProtocolError(f"unexpected message: {kind or 'an empty one'}")
        return None

    def _hello(self, hello: pb.Hello, now: float) -> None:
        if hello.protocol_version != VERSION:
            raise RefusedError(
                f"the back speaks protocol version {hello.protocol_version}, this lead {VERSION}: "
                "install the same release of duo on both machines",
                pb.Refusal.REASON_PROTOCOL_VERSION,
            )
        if len(hello.known) > MAX_KNOWN:
            raise ProtocolError(f"Hello names {len(hello.known)} sessions, at most {MAX_KNOWN} are allowed")
        name = _printable(hello.name) or "back"
        self.back = Identity(name, _printable(hello.model), hello.vocabulary_fingerprint, hello.vocabulary_size)
        self._known = {known.session: (known.length, known.hash) for known in hello.known}
        self.greeted = hello.vocabulary_fingerprint == self._me.fingerprint
        if not self.greeted:
            self.comparison, self._compare_until = Comparison(self._me.meanings), now + COMPARED_WITHIN

    @property
    def compare_until(self) -> float:
        """When the back must have said more of what its tokens mean."""
        return min(self.heard + LOST_AFTER, self._compare_until)

    def too_slow(self) -> RefusedError:
        """For a back that has not."""
        assert self.comparison is not None
        return RefusedError(
            f"the vocabularies are not the same, and what the draft's tokens mean has not come in time, only of "
            f"{self.comparison.compared} tokens: use a faster link, or a draft with the target's own vocabulary",
            pb.Refusal.REASON_VOCABULARY,
        )

    @property
    def _to_compare(self) -> int:
        """Of a back's vocabulary that is larger, no more is of interest: that is too many."""
        return self._me.vocabulary_size + MAX_DIFFERING + 1

    def _compare(self, message: pb.Meanings) -> None:
        """Take in a part of the back's vocabulary. Raises RefusedError if that is the last one, and too many differ."""
        comparison, meanings = self.comparison, list(message.meanings)
        assert comparison is not None and self.back is not None
        if message.start != comparison.compared:
            raise ProtocolError(f"tokens from {message.start} came, after {comparison.compared}")
        if message.more and len(meanings) < LEAST_MEANINGS:
            raise ProtocolError(f"the meanings of {len(meanings)} tokens came in a message, and more are to follow")
        if comparison.compared + len(meanings) > self._to_compare:
            raise ProtocolError(f"more tokens came than the {self._to_compare} that were asked for")
        if any(len(meaning) > LONGEST for meaning in meanings):
            raise ProtocolError(f"a token means more than {LONGEST} bytes")
        comparison.add(meanings)
        if message.more:
            return
        # Of a much larger vocabulary the rest was not asked for.
        cut = self._to_compare <= min(comparison.compared, self.back.vocabulary_size - 1)
        comparison.finish()
        if not comparison.few:
            draft, target = self.back, self._me
            raise RefusedError(
                f"the draft model {draft.model!r} ({draft.vocabulary_size} tokens) has another vocabulary than the "
                f"target model {target.model!r} ({target.vocabulary_size} tokens): {'at least ' * cut}{comparison}; "
                "use a draft of the same family",
                pb.Refusal.REASON_VOCABULARY,
            )
        self.greeted = True

    def rename(self, name: str) -> None:
        """Give the back another name than it asked for, because that one is taken."""
        assert self.back is not None
        self.back = replace(self.back, name=name)

    def _check(self, guesses: pb.Guesses) -> None:
        number = expansion_count(guesses)
        if number > MAX_EXPANSIONS:
            raise ProtocolError(f"{number} expansions in a message, {MAX_EXPANSIONS} are allowed")
        vocabulary_size = self._me.vocabulary_size
        for of in guesses.sessions:
            for expansion in of.expansions:
                tokens, count = expansion.tokens, len(expansion.tokens)
                if count > MAX_CHILDREN or count != len(expansion.probabilities):
                    chances = len(expansion.probabilities)
                    raise ProtocolError(f"an expansion of {count} tokens and {chances} probabilities")
                if count and max(tokens) >= vocabulary_size:
                    raise ProtocolError(f"a guessed token is outside the vocabulary of {vocabulary_size}")

    @property
    def asked(self) -> bool:
        """Whether a ping is to be answered."""
        return bool(self._pongs)

    def send(self, now: float) -> Iterator[bytes]:
        """What the back should hear now, message by message. Lazy: each is made when the one before it is gone."""
        if self.back is None:
            return
        if not self.greeted:
            if not self._asked:
                self._asked = True
                yield pb.LeadMessage(compare=pb.Compare(tokens=self._to_compare)).SerializeToString()
            return
        if not self._welcomed:
            self._welcomed = True
            me, name = self._me, self.back.name
            welcome = pb.Welcome(
                protocol_version=VERSION, name=name, model=me.model, vocabulary_size=me.vocabulary_size
            )
            if (comparison := self.comparison) is not None:
                welcome.differing[:], welcome.compared = comparison.tokens, comparison.compared
                welcome.first = comparison.first[0]
            yield pb.LeadMessage(welcome=welcome).SerializeToString()
        while self._pongs:
            pong = pb.Pong(value=self._pongs.pop(0), clock=int(now * 1e9))
            yield pb.LeadMessage(pong=pong).SerializeToString()
        # Of what ended while the back was away, it still has to hear.
        for session in [s for s in (*self._known, *self._sent) if s not in self._ledger]:
            self._known.pop(session, None)
            self._sent.pop(session, None)
            yield pb.LeadMessage(end=pb.End(session=session)).SerializeToString()
        if self._ledger.resting:
            for session in list(self._sent):
                del self._sent[session]
                yield pb.LeadMessage(end=pb.End(session=session)).SerializeToString()
        else:
            for entry in list(self._ledger.values()):
                yield from self._catch_up(entry)
        if now - self._pinged >= PING_EVERY:
            self._pinged = now
            self._ping_value = int(now * 1e9)
            yield pb.LeadMessage(ping=pb.Ping(value=self._ping_value)).SerializeToString()

    def _catch_up(self, entry: Entry) -> Iterator[bytes]:
        if entry.session not in self._sent:
            length, prefix_hash = self._known.pop(entry.session, (0, 0))
            agreed = length <= len(entry.prefix) and entry.prefix.hash_at(length) == prefix_hash
            self._sent[entry.session] = length if agreed else 0
            begin = pb.Begin(
                session=entry.session,
                sampling=_to_wire(entry.sampling),
                prompt_length=entry.prompt_length,
                ends=entry.ends,
            )
            if self.back is not None and self.back.name in entry.backs:
                begin.turn, begin.backs = entry.backs.index(self.back.name), len(entry.backs)
            yield pb.LeadMessage(begin=begin).SerializeToString()
        start = self._sent[entry.session]
        while start < (end := len(entry.prefix)):
            stop = min(end, start + COMMIT_TOKENS)
            tokens = entry.prefix.tokens[start:stop]
            commit = pb.Commit(session=entry.session, start=start, tokens=tokens, more=stop < end)
            self._sent[entry.session] = start = stop
            yield pb.LeadMessage(commit=commit).SerializeToString()

    def silent(self, now: float) -> bool:
        return now - self.heard >= SILENT_AFTER

    def lost(self, now: float) -> bool:
        return now - self.heard >= LOST_AFTER

    @staticmethod
    def refusal(error: Exception) -> bytes:
        """The last message of a stream."""
        reason = error.reason if isinstance(error, RefusedError) else pb.Refusal.REASON_MALFORMED
        refusal = pb.Refusal(reason=pb.Refusal.Reason.Name(reason), message=str(error))
        return pb.LeadMessage(refusal=refusal).SerializeToString()


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
    turn: Turn = ALONE
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
            turn = Turn(begin.turn, max(1, begin.backs))
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
        if len(welcome.first) > LONGEST:
            raise ProtocolError(f"a token means more than {LONGEST} bytes")
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
