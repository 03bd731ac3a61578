"""A back, as the lead sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from duo.engines.meaning import MAX_DIFFERING, MAX_MEANING_BYTES, Comparison, Sample, sample
from duo.errors import ProtocolError, RefusedError
from duo.v1 import duo_pb2 as pb
from duo.wire import messages
from duo.wire.codec import STATES, guesses_from_wire, parse, printable, sampling_to_wire
from duo.wire.ledger import Entry, Ledger
from duo.wire.pings import Pings


def too_many_backs(limit: int) -> RefusedError:
    why = f"the lead has {limit} backs already" if limit else "the lead takes no backs (its --speculation)"
    return RefusedError(why, pb.Refusal.REASON_TOO_MANY_BACKS)


def refusal_of(error: Exception, target: Sample | None = None) -> bytes:
    """The last message of a stream that ends with this error. target: what shows the vocabulary, if that is why."""
    reason = error.reason if isinstance(error, RefusedError) else pb.Refusal.REASON_MALFORMED
    refusal = pb.Refusal(reason=pb.Refusal.Reason.Name(reason), message=str(error))
    if target is not None and reason == pb.Refusal.REASON_VOCABULARY:
        shown = pb.Vocabulary(
            fingerprint=target.fingerprint, tokens=target.size, sample=target.meanings, model_bytes=target.model_bytes
        )
        refusal.target.CopyFrom(shown)
    return pb.LeadMessage(refusal=refusal).SerializeToString()


def identity_of(hello: pb.Hello) -> messages.Identity:
    """Who a back says it is. Raises ProtocolError, and RefusedError for another version of the protocol."""
    if hello.protocol_version != messages.VERSION:
        raise RefusedError(
            f"the back speaks protocol version {hello.protocol_version}, this lead {messages.VERSION}: "
            "install the same release of duo on both machines",
            pb.Refusal.REASON_PROTOCOL_VERSION,
        )
    if len(hello.known) > messages.MAX_KNOWN:
        raise ProtocolError(f"Hello names {len(hello.known)} sessions, at most {messages.MAX_KNOWN} are allowed")
    name = printable(hello.name) or "back"
    return messages.Identity(name, printable(hello.model), hello.vocabulary_fingerprint, hello.vocabulary_size)


class LeadSide:
    """One stream of a back, from its Hello to its end."""

    def __init__(self, me: messages.Identity, ledger: Ledger, now: float) -> None:
        self._me = me
        self._ledger = ledger
        self._pings = Pings(now)
        self.sent: dict[int, int] = {}
        """Sessions that the back knows of, with the number of tokens it has been sent."""
        self.known: dict[int, tuple[int, int]] = {}
        """Sessions that the Hello named and that were not begun since: length and hash of what the back holds."""
        self._welcomed = False
        self.received_at = now
        """When the last message came."""
        self.back: messages.Identity | None = None
        """Who the back is; None before its Hello."""
        self.looks = False
        """The back has no model yet, and is refused: it looks for one."""
        self.greeted = False
        """Whether it is certain that the back can work here."""
        self.comparison: Comparison | None = None
        """Of the vocabularies, unless they are equal."""
        self._compare_until = float("inf")
        self._compare_sent = False
        self._hears_benefit = False
        self._said = ledger.says
        """What the back heard last of what backs bring. What was said before it came is not about it."""
        self.round_trip: float | None = None
        """Seconds, as measured last."""

    def receive(self, data: bytes, now: float) -> messages.Guessed | messages.StatusCame | messages.PingCame | None:
        """Take in a message.

        Raises RefusedError for a back that cannot work here and ProtocolError for a message that makes no sense. Then
        the stream is over: send `refusal(error)` and close it.
        """
        message = parse(pb.BackMessage(), data)
        self.received_at = now
        kind = message.WhichOneof("kind")
        if self.back is None:
            if kind != "hello":
                raise ProtocolError(f"the first message must be a Hello, not {kind or 'an empty one'}")
            self._hello(message.hello, now)
            return None
        if not self.greeted:
            if kind == "pong":
                return None  # to a ping of the one who let the back wait, and handed it on meanwhile
            if kind != "meanings":
                raise ProtocolError(f"what the tokens mean was asked for, and came {kind or 'an empty message'}")
            self._compare(message.meanings)
            return None
        match kind:
            case "guesses":
                return guesses_from_wire(message.guesses, self._me.vocabulary_size)
            case "status":
                state = STATES.get(message.status.state)
                return messages.StatusCame(state) if state is not None else None
            case "ping":
                self._pings.came(message.ping.value)
                return messages.PingCame()
            case "pong":
                if (sent := self._pings.answered(message.pong.value)) is not None:
                    self.round_trip = max(0.0, now - sent)
                return None
            case _:
                raise ProtocolError(f"unexpected message: {kind or 'an empty one'}")

    def _hello(self, hello: pb.Hello, now: float) -> None:
        self.back, self._hears_benefit = identity_of(hello), hello.hears_benefit
        if hello.looks:
            self.looks = True
            raise RefusedError(
                f"the target is {self._me.model}: use a draft of the same family", pb.Refusal.REASON_VOCABULARY
            )
        self.known = {known.session: (known.length, known.hash) for known in hello.known}
        self.greeted = hello.vocabulary_fingerprint == self._me.fingerprint
        if not self.greeted:
            self.comparison, self._compare_until = Comparison(self._me.meanings), now + messages.COMPARED_WITHIN

    @property
    def compare_until(self) -> float:
        """When the next message with meanings must be here."""
        return min(self.received_at + messages.LOST_AFTER, self._compare_until)

    def too_slow(self) -> RefusedError:
        """The error for a back that missed `compare_until`."""
        assert self.comparison is not None
        return RefusedError(
            f"the vocabularies are not the same, and what the draft's tokens mean has not come in time, only of "
            f"{self.comparison.compared} tokens: use a faster link, or a draft with the target's own vocabulary",
            pb.Refusal.REASON_VOCABULARY,
        )

    @property
    def _to_compare(self) -> int:
        """Tokens to compare at most. A vocabulary with more than these differs too much in any case."""
        return self._me.vocabulary_size + MAX_DIFFERING + 1

    def _compare(self, message: pb.Meanings) -> None:
        """Take in a part of the back's vocabulary. Raises RefusedError after the last one if too many tokens differ."""
        comparison, meanings = self.comparison, list(message.meanings)
        assert comparison is not None and self.back is not None
        if message.start != comparison.compared:
            raise ProtocolError(f"tokens from {message.start} came, after {comparison.compared}")
        if message.more and len(meanings) < messages.MIN_MEANINGS:
            raise ProtocolError(f"the meanings of {len(meanings)} tokens came in a message, and more are to follow")
        if comparison.compared + len(meanings) > self._to_compare:
            raise ProtocolError(f"more tokens came than the {self._to_compare} that were asked for")
        if any(len(meaning) > MAX_MEANING_BYTES for meaning in meanings):
            raise ProtocolError(f"a token means more than {MAX_MEANING_BYTES} bytes")
        comparison.add(meanings)
        if message.more:
            return
        # The rest of a much larger vocabulary was not asked for.
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

    def send(self, now: float) -> Iterator[bytes]:
        """The messages that are due. Lazy: each one is made when the one before it has been sent."""
        if self.back is None:
            return
        if not self.greeted:
            if not self._compare_sent:
                self._compare_sent = True
                yield pb.LeadMessage(compare=pb.Compare(tokens=self._to_compare)).SerializeToString()
            return
        if not self._welcomed:
            self._welcomed = True
            yield self._welcome(self.back.name)
        for value in self._pings.answers():
            yield pb.LeadMessage(pong=pb.Pong(value=value, clock=int(now * 1e9))).SerializeToString()
        yield from self._send_sessions()
        if self._hears_benefit and self._ledger.says != self._said:
            self._said = self._ledger.says
            yield pb.LeadMessage(benefit=pb.Benefit(message=self._said)).SerializeToString()
        if (ping := self._pings.due(now)) is not None:
            yield pb.LeadMessage(ping=pb.Ping(value=ping)).SerializeToString()

    def _welcome(self, name: str) -> bytes:
        me = self._me
        welcome = pb.Welcome(
            protocol_version=messages.VERSION, name=name, model=me.model, vocabulary_size=me.vocabulary_size
        )
        if (comparison := self.comparison) is not None:
            welcome.differing[:], welcome.compared = comparison.tokens, comparison.compared
            welcome.first = comparison.first[0]
        return pb.LeadMessage(welcome=welcome).SerializeToString()

    def _send_sessions(self) -> Iterator[bytes]:
        """The difference between the ledger and what the back has been sent."""
        # The back may have been away when a session ended.
        for session in [s for s in (*self.known, *self.sent) if s not in self._ledger]:
            self.known.pop(session, None)
            self.sent.pop(session, None)
            yield pb.LeadMessage(end=pb.End(session=session)).SerializeToString()
        if self._ledger.resting:
            for session in list(self.sent):
                del self.sent[session]
                yield pb.LeadMessage(end=pb.End(session=session)).SerializeToString()
        else:
            for entry in list(self._ledger.values()):
                yield from self._catch_up(entry)

    def _catch_up(self, entry: Entry) -> Iterator[bytes]:
        if entry.session not in self.sent:
            length, prefix_hash = self.known.pop(entry.session, (0, 0))
            agreed = length <= len(entry.prefix) and entry.prefix.hash_at(length) == prefix_hash
            self.sent[entry.session] = length if agreed else 0
            begin = pb.Begin(
                session=entry.session,
                sampling=sampling_to_wire(entry.sampling),
                prompt_length=entry.prompt_length,
                ends=entry.ends,
            )
            if self.back is not None and self.back.name in entry.backs:
                begin.turn, begin.backs = entry.backs.index(self.back.name), len(entry.backs)
            yield pb.LeadMessage(begin=begin).SerializeToString()
        start = self.sent[entry.session]
        while start < (end := len(entry.prefix)):
            stop = min(end, start + messages.MAX_COMMIT_TOKENS)
            tokens = entry.prefix.tokens[start:stop]
            commit = pb.Commit(session=entry.session, start=start, tokens=tokens, more=stop < end)
            self.sent[entry.session] = start = stop
            yield pb.LeadMessage(commit=commit).SerializeToString()

    def silent(self, now: float) -> bool:
        return now - self.received_at >= messages.SILENT_AFTER

    def lost(self, now: float) -> bool:
        return now - self.received_at >= messages.LOST_AFTER

    def refusal(self, error: Exception) -> bytes:
        """The last message of a stream."""
        return refusal_of(error, sample(self._me.meanings, self._me.fingerprint, self._me.model_bytes))
