"""Both ends of a stream by hand: a back that records what it hears, and random messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from duo.draft.draft import Draft
from duo.errors import ProtocolError, RefusedError
from duo.prefix import Prefix
from duo.sampling.params import SamplingParams
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Entry, Ledger
from duo.wire.messages import VERSION, Begun, BenefitCame, CommittedTokens, Ended, Event, Identity, PingCame, WaitCame

SIZE = 1000
MEANINGS = [b"%d" % token for token in range(SIZE)]
uint32, uint64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
texts = st.text(max_size=20)
few = st.lists(uint32 | st.integers(0, SIZE), max_size=3)
expansions = st.builds(
    pb.Expansion, length=uint32, hash=uint64, tokens=few, probabilities=st.lists(st.floats(width=32), max_size=3)
)
knowns = st.lists(st.builds(pb.Known, session=uint64, length=uint32, hash=uint64), max_size=3)
versions = st.sampled_from([0, VERSION, VERSION, VERSION, 2**32 - 1])

of_back = st.one_of(
    st.builds(
        pb.Hello,
        protocol_version=versions,
        name=texts,
        model=texts,
        vocabulary_fingerprint=st.sampled_from(["fp", "", "other"]),
        vocabulary_size=st.sampled_from([SIZE, 0]),
        known=knowns,
    ).map(lambda m: pb.BackMessage(hello=m)),
    st.builds(
        pb.Guesses,
        sessions=st.lists(
            st.builds(pb.SessionGuesses, session=uint64, expansions=st.lists(expansions, max_size=3)), max_size=3
        ),
    ).map(lambda m: pb.BackMessage(guesses=m)),
    st.builds(pb.Ping, value=uint64).map(lambda m: pb.BackMessage(ping=m)),
    st.builds(pb.Pong, value=uint64).map(lambda m: pb.BackMessage(pong=m)),
    st.builds(
        pb.Meanings,
        start=uint32 | st.just(0),
        meanings=st.lists(st.binary(max_size=5), max_size=3) | st.just(MEANINGS),
        more=st.booleans(),
    ).map(lambda m: pb.BackMessage(meanings=m)),
)


LEAD = Identity("lead", "target-13m", "fp", SIZE, MEANINGS)


BACK = Identity("mini", "draft-1m", "fp", SIZE, MEANINGS)


SAMPLING = SamplingParams(
    temperature=0.8,
    top_k=40,
    top_p=0.95,
    min_p=0.05,
    repetition_penalty=1.1,
    presence_penalty=0.2,
    frequency_penalty=-0.3,
    logit_bias={7: -100.0, 999: 1.5},
    seed=2**64 - 1,
    grammar='start: "é"',
)


def entry(session: int, tokens: int, prompt: int | None = None, sampling: SamplingParams = SAMPLING) -> Entry:
    prefix = Prefix((session + i) % SIZE for i in range(tokens))
    return Entry(session, sampling, tokens if prompt is None else prompt, prefix)


class Back:
    """What a back makes of what it hears: drafts that are never drafted from, and a count of what came."""

    def __init__(self, me: Identity = BACK) -> None:
        self.me = me
        self.drafts: dict[int, Draft] = {}
        self.side = BackSide(me, 0.0)
        self.events: list[Event] = []
        self.tokens = 0

    def known(self) -> list[tuple[int, Prefix]]:
        return [(session, draft.prefix) for session, draft in self.drafts.items()]

    def connect(self, now: float = 0.0) -> bytes:
        self.side = BackSide(self.me, now)
        return self.side.hello(self.known())

    def hear(self, data: bytes, now: float = 0.0) -> None:
        event = self.side.receive(data, now)
        if event is None or isinstance(event, PingCame | WaitCame | BenefitCame):
            return
        self.events.append(event)
        if isinstance(event, Begun) and event.session not in self.drafts:
            self.drafts[event.session] = Draft(event.session, event.sampling, event.prompt_length, 4, float)
        elif isinstance(event, CommittedTokens):
            self.tokens += len(event.tokens)
            self.drafts[event.session].commit(event.start, event.tokens, event.more)
        elif isinstance(event, Ended):
            del self.drafts[event.session]


def joined(ledger: Ledger, back: Back, now: float = 0.0) -> LeadSide:
    side = LeadSide(LEAD, ledger, now)
    assert side.receive(back.connect(now), now) is None
    return side


def drain(side: LeadSide, back: Back, now: float = 0.0) -> list[bytes]:
    messages = list(side.send(now))
    for message in messages:
        back.hear(message, now)
    return messages


def agree(ledger: Ledger, back: Back) -> None:
    assert {s: d.prefix.tokens for s, d in back.drafts.items()} == {s: e.prefix.tokens for s, e in ledger.items()}
    for session, draft in back.drafts.items():
        assert draft.params == ledger[session].sampling
        assert draft.prompt_length == ledger[session].prompt_length
        assert draft.complete == (len(draft.prefix) >= draft.prompt_length)


def one_line(error: Exception) -> None:
    text = str(error)
    assert text and text.isprintable() and len(text) < 700


def refused(hello: bytes, meanings: bytes | None = None) -> ProtocolError:
    """The lead's error for a first message, or for what is said of the tokens; the back hears the same words."""
    side = LeadSide(LEAD, Ledger({1: entry(1, 3)}), 0.0)
    if meanings is not None:
        side.receive(hello, 0.0)
        assert len(list(side.send(0.0))) == 1
    with pytest.raises(ProtocolError) as of_lead:
        side.receive(hello if meanings is None else meanings, 0.0)
    assert list(side.send(100.0)) == [], "a back that was refused hears of nothing"
    back = BackSide(BACK, 0.0)
    with pytest.raises(RefusedError) as of_back:
        back.receive(side.refusal(of_lead.value), 0.0)
    assert str(of_back.value) == str(of_lead.value)
    one_line(of_back.value)
    reason = of_lead.value.reason if isinstance(of_lead.value, RefusedError) else pb.Refusal.REASON_MALFORMED
    assert of_back.value.reason == reason
    return of_lead.value


def hello(**fields: Any) -> bytes:
    message = pb.Hello(
        protocol_version=VERSION, name="mini", model="draft", vocabulary_fingerprint="fp", vocabulary_size=SIZE
    )
    message.MergeFrom(pb.Hello(**fields))
    return pb.BackMessage(hello=message).SerializeToString()


def expansion(tokens: int, probabilities: int, token: int = 1) -> pb.Expansion:
    return pb.Expansion(length=1, hash=1, tokens=[token] * tokens, probabilities=[0.5] * probabilities)
