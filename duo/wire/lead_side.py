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

from collections.abc import Iterator
from dataclasses import replace

from duo.engines.meaning import MAX_DIFFERING, MAX_MEANING_BYTES, Comparison
from duo.errors import ProtocolError, RefusedError
from duo.v1 import duo_pb2 as pb
from duo.wire.ledger import Entry, Ledger
from duo.wire.messages import (
    _STATES,
    COMMIT_TOKENS,
    COMPARED_WITHIN,
    LEAST_MEANINGS,
    LOST_AFTER,
    MAX_CHILDREN,
    MAX_EXPANSIONS,
    MAX_KNOWN,
    PING_EVERY,
    SILENT_AFTER,
    VERSION,
    Identity,
    State,
    _parse,
    _printable,
    _to_wire,
    expansion_count,
)


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
        if any(len(meaning) > MAX_MEANING_BYTES for meaning in meanings):
            raise ProtocolError(f"a token means more than {MAX_MEANING_BYTES} bytes")
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
