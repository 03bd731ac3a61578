"""Both ends of the protocol, connected by a wire that delays, breaks and comes back; and garbage at either end.

What crosses the wire is bytes in a deque, so every interleaving of the two sides and of broken streams is one that a
test can write down, and nothing waits for anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from duo.draft.draft import Draft
from duo.engines.meaning import MAX_DIFFERING
from duo.errors import ProtocolError, RefusedError
from duo.guesses import ALONE, Expansion, Share
from duo.prefix import Prefix
from duo.sampling.params import SamplingParams
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.clock import ClockOffset
from duo.wire.codec import expansion_count, guess_count, status_to_wire
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Entry, Ledger
from duo.wire.messages import (
    COMPARED_WITHIN,
    LOST_AFTER,
    MAX_BIASES,
    MAX_CHILDREN,
    MAX_COMMIT_TOKENS,
    MAX_EXPANSIONS,
    MAX_KNOWN,
    MAX_MESSAGE_BYTES,
    MAX_WAITING_PINGS,
    MIN_MEANINGS,
    PING_EVERY,
    SILENT_AFTER,
    STATUS_EVERY,
    VERSION,
    Begun,
    CommittedTokens,
    Ended,
    Event,
    Guessed,
    Identity,
    PingCame,
    State,
    StatusCame,
    Welcomed,
)
from tests.support.wire import MEANINGS, SIZE, few, of_back, texts, uint32, uint64

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
        if event is None or isinstance(event, PingCame):
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


# -- What a back is told -------------------------------------------------------------------------------------------


def test_a_back_hears_everything_in_order_and_only_once() -> None:
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 5)
    side = joined(ledger, back)
    drain(side, back)
    assert back.events == [
        Welcomed("mini", "target-13m", SIZE),
        Begun(1, SAMPLING, 5),
        CommittedTokens(1, 0, ledger[1].prefix.tokens[:5], False),
    ]
    assert drain(side, back) == []
    ledger[1].prefix.extend([9, 8])
    drain(side, back)
    assert back.events[3:] == [CommittedTokens(1, 5, [9, 8], False)]
    ledger[2] = entry(2, 3)
    del ledger[1]
    drain(side, back)
    assert back.events[4] == Ended(1)
    agree(ledger, back)
    assert drain(side, back) == []


@pytest.mark.parametrize("prompt", [3 * MAX_COMMIT_TOKENS + 17, 10], ids=["prompt", "answer under way"])
def test_a_long_session_goes_in_bounded_messages_and_is_complete_only_at_the_end(prompt: int) -> None:
    ledger, back = Ledger(), Back()
    length = 3 * MAX_COMMIT_TOKENS + 17
    ledger[1] = entry(1, length, prompt)
    side = joined(ledger, back)
    complete = []
    for message in side.send(0.0):
        assert len(message) <= MAX_MESSAGE_BYTES
        back.hear(message)
        if 1 in back.drafts and back.drafts[1].prefix.tokens:
            complete.append(back.drafts[1].complete)
    assert complete == [False, False, False, True]
    assert back.tokens == length
    agree(ledger, back)


def test_a_back_that_comes_back_is_sent_only_what_it_lacks() -> None:
    ledger, back = Ledger(), Back()
    for session in (1, 2, 3):
        ledger[session] = entry(session, 5000 + session)
    drain(joined(ledger, back), back)
    had, back.tokens = back.tokens, 0
    assert had == 15006
    # While it is away: one ends, one goes on, one begins, and one stands still.
    del ledger[1]
    ledger[2].prefix.extend([5, 6, 7])
    ledger[4] = entry(4, 10)
    back.events.clear()
    side = joined(ledger, back)
    messages = drain(side, back)
    assert back.tokens == 13
    assert Ended(1) in back.events
    assert sum(len(message) for message in messages) < 1000
    agree(ledger, back)
    assert drain(side, back) == []


def test_a_back_that_holds_something_else_is_sent_all_of_it() -> None:
    """A lead that lost its memory would not reuse the number of a session; should it happen, the hash tells."""
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 50)
    drain(joined(ledger, back), back)
    for other in (Prefix([1] * 50), Prefix([1] * 20), entry(1, 49).prefix):
        ledger[1] = replace(ledger[1], prefix=other)
        side = LeadSide(LEAD, ledger, 0.0)
        side.receive(back.connect(), 0.0)
        commits = [m for m in map(pb.LeadMessage.FromString, side.send(0.0)) if m.HasField("commit")]
        assert [m.commit.start for m in commits] == [0]
        assert list(commits[0].commit.tokens) == other.tokens


def test_a_session_that_ends_while_a_returning_back_is_greeted_is_ended_for_it() -> None:
    ledger, back = Ledger(), Back()
    ledger[1], ledger[2] = entry(1, 5), entry(2, 5)
    drain(joined(ledger, back), back)
    del ledger[1]
    side = joined(ledger, back)
    messages = side.send(0.0)
    back.hear(next(messages))  # Welcome
    back.hear(next(messages))  # End of 1: and now, before anything is said of 2, it ends too
    del ledger[2]
    for message in messages:
        back.hear(message)
    drain(side, back)
    assert back.drafts == {}


def test_nothing_piles_up_for_a_back_that_does_not_read() -> None:
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 10)
    side = joined(ledger, back)
    messages = side.send(0.0)
    back.hear(next(messages))
    # The write of the second message hangs. A thousand answers come and go, and one goes on.
    for session in range(2, 1002):
        ledger[session] = entry(session, 10)
        ledger[1].prefix.extend([session % SIZE])
        if session > 2:
            del ledger[session - 1]
    assert len(side.sent) + len(side.known) == 0
    # It reads again: it hears of what is open now, each once, and of nothing in between.
    rest = list(messages) + list(side.send(0.0))
    for message in rest:
        back.hear(message)
    agree(ledger, back)
    assert len(rest) <= MAX_WAITING_PINGS
    assert back.tokens == 1020


def test_each_back_is_told_its_turn_where_several_divide_the_work() -> None:
    """One that comes later, and is not counted in, drafts as if it were alone."""
    ledger = Ledger()
    ledger[1] = replace(entry(1, 5), backs=["quick", BACK.name])
    back = Back()
    side = joined(ledger, back)
    told = [back.side.receive(message, 0.0) for message in side.send(0.0)]
    assert [event.share for event in told if isinstance(event, Begun)] == [Share(1, 2)]
    ledger[1] = replace(entry(1, 5), backs=["quick", "slow"])
    back = Back()
    side = joined(ledger, back)
    told = [back.side.receive(message, 0.0) for message in side.send(0.0)]
    assert [event.share for event in told if isinstance(event, Begun)] == [ALONE]


def test_at_rest_a_back_hears_of_no_session_and_of_all_of_it_afterwards() -> None:
    ledger, back = Ledger(), Back()
    ledger[1] = entry(1, 5)
    side = joined(ledger, back)
    drain(side, back)
    agree(ledger, back)
    ledger.resting = True
    ledger[1].prefix.extend([7])
    ledger[2] = entry(2, 4)
    drain(side, back)
    assert not back.drafts
    assert not drain(side, back), "nothing is said twice"
    ledger.resting = False
    ledger[1].prefix.extend([8])
    drain(side, back)
    agree(ledger, back)


def test_the_name_that_the_lead_gives_is_told() -> None:
    back = Back()
    side = joined(Ledger(), back)
    side.rename("mini-2")
    drain(side, back)
    assert back.events == [Welcomed("mini-2", "target-13m", SIZE)]


# -- Any interleaving ----------------------------------------------------------------------------------------------


class Wire(RuleBasedStateMachine):
    """Sessions begin, grow and end; streams stall, break and are opened again; messages are under way or lost."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.back = Back()
        self.side: LeadSide | None = None
        self.sending: Iterator[bytes] = iter(())
        self.under_way: deque[bytes] = deque()
        self.began = 0
        self.now = 0.0
        self.lacked = 0
        self.shadow: dict[int, list[int]] = {}

    @initialize()
    def start(self) -> None:
        self.begin(3)

    @rule(length=st.sampled_from([1, 3, 50, MAX_COMMIT_TOKENS, 2 * MAX_COMMIT_TOKENS + 1]))
    def begin(self, length: int) -> None:
        if len(self.ledger) < 4:
            self.began += 1
            self.ledger[self.began] = entry(self.began, length)

    @precondition(lambda self: self.ledger)
    @rule(data=st.data(), tokens=st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=5))
    def commit(self, data: st.DataObject, tokens: list[int]) -> None:
        self.ledger[data.draw(st.sampled_from(list(self.ledger)))].prefix.extend(tokens)

    @precondition(lambda self: self.ledger)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        del self.ledger[data.draw(st.sampled_from(list(self.ledger)))]

    @rule()
    def break_and_reconnect(self) -> None:
        """The stream breaks, with all that is under way, and the back opens another."""
        self.under_way.clear()
        known = {s: len(d.prefix) for s, d in self.back.drafts.items()}
        self.lacked = sum(len(e.prefix) - known.get(s, 0) for s, e in self.ledger.items())
        self.back.tokens = 0
        self.side = joined(self.ledger, self.back, self.now)
        self.sending = self.side.send(self.now)

    @precondition(lambda self: self.side is not None)
    @rule(most=st.integers(1, 6))
    def write(self, most: int) -> None:
        """The lead writes a few messages; a write may stop anywhere between two."""
        assert self.side is not None
        for _ in range(most):
            message = next(self.sending, None)
            if message is None:
                self.sending = self.side.send(self.now)
                return
            assert len(message) <= MAX_MESSAGE_BYTES
            self.under_way.append(message)

    @rule(most=st.integers(1, 6))
    def read(self, most: int) -> None:
        for _ in range(min(most, len(self.under_way))):
            self.back.hear(self.under_way.popleft(), self.now)
            for answer in self.back.side.send(self.now):
                assert self.side is not None
                self.side.receive(answer, self.now)

    @rule(seconds=st.sampled_from([0.1, PING_EVERY]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def what_the_back_holds_is_final(self) -> None:
        for session, draft in self.back.drafts.items():
            if (told := self.ledger.get(session)) is not None:
                assert told.prefix.tokens[: len(draft.prefix)] == draft.prefix.tokens
        if self.side is not None:
            assert len(self.side.sent) + len(self.side.known) <= self.began

    def teardown(self) -> None:
        """However it went: once both read and write, the back holds what the lead does."""
        self.break_and_reconnect()
        for _ in range(2):
            self.write(10**6)
            self.read(10**6)
        agree(self.ledger, self.back)
        assert self.back.tokens == self.lacked, "what it held already was not sent again"
        self.commit_all()
        for _ in range(2):
            self.write(10**6)
            self.read(10**6)
        agree(self.ledger, self.back)

    def commit_all(self) -> None:
        for told in self.ledger.values():
            told.prefix.extend([1, 2])


TestWire = Wire.TestCase
TestWire.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- Guesses, liveness ---------------------------------------------------------------------------------------------


def test_guesses_arrive_as_they_were_said() -> None:
    side = joined(Ledger(), Back())
    said = {
        2**63: [Expansion(10, 2**64 - 1, [3, SIZE - 1], [0.5, 0.25]), Expansion(11, 0, [], [])],
        5: [Expansion(n, n, [1], [0.5]) for n in range(MAX_EXPANSIONS - 2)],
        6: [],
        7: [Expansion(n, n, [2], [0.75]) for n in range(2 * MAX_EXPANSIONS + 1)],
    }
    heard: dict[int, list[Expansion]] = {}
    me = BackSide(BACK, 0.0)
    for number, message in enumerate(me.guesses(said)):
        guesses = side.receive(message, 1.0)
        assert isinstance(guesses, Guessed)
        for session, found in guesses.sessions:
            assert session == 7 or number == 0
            heard.setdefault(session, []).extend(
                Expansion(e.length, e.hash, list(e.tokens), list(e.probabilities)) for e in found
            )
    assert heard == {session: found for session, found in said.items() if found}
    assert number == 3
    assert list(me.guesses({})) == list(me.guesses({1: []})) == []


def test_what_says_nothing_counts_as_well() -> None:
    of = [pb.SessionGuesses(session=1), pb.SessionGuesses(session=2, expansions=[expansion(1, 1)] * 3)]
    assert [expansion_count(pb.Guesses(sessions=of[:count])) for count in range(3)] == [1, 1, 4]
    assert [guess_count(pb.Guesses(sessions=of[:count])) for count in range(3)] == [1, 1, 4]
    wide = pb.SessionGuesses(session=3, expansions=[expansion(5, 5), expansion(0, 0)])
    assert guess_count(pb.Guesses(sessions=[*of, wide])) == 4 + 5 + 1


def test_states_are_shown_and_unknown_ones_ignored() -> None:
    side = joined(Ledger(), Back())
    states: list[State] = ["catching up", "drafting", "waiting"]
    for state in states:
        assert side.receive(status_to_wire(state), 0.0) == StatusCame(state)
    future = pb.BackMessage.FromString(bytes([0x2A, 2, 0x08, 99]))
    assert future.status.state == 99
    assert side.receive(future.SerializeToString(), 0.0) is None


def test_a_back_that_drafts_on_and_off_does_not_say_so_each_time() -> None:
    ledger, back = Ledger(), Back()
    side = joined(ledger, back)
    drain(side, back)
    me, told = back.side, list[object]()
    for i in range(200):
        now = i * STATUS_EVERY / 50  # four times as long as that in all
        me.state = "waiting" if i % 2 else "drafting"
        told += [event for message in me.send(now) if (event := side.receive(message, now)) != PingCame()]
    assert told[0] == StatusCame("drafting")
    assert len(told) <= 4
    me.state = "waiting"
    told += [event for message in me.send(2.0) if (event := side.receive(message, 2.0)) != PingCame()]
    assert told[-1] == StatusCame("waiting")


def test_round_trips_are_measured_and_silence_is_noticed() -> None:
    ledger, back = Ledger(), Back()
    side = joined(ledger, back, now=100.0)
    drain(side, back, 100.0)
    assert side.round_trip is None
    (ping,) = side.send(100.0 + PING_EVERY)
    assert list(side.send(100.0 + PING_EVERY)) == [], "not again at once"
    back.hear(ping, 101.5)
    (pong,) = back.side.send(100.5)
    side.receive(pong, 101.0 + 0.25)
    assert side.round_trip == pytest.approx(0.25)
    side.receive(pong, 109.0)
    assert side.round_trip == pytest.approx(0.25), "a pong counts once"
    side.receive(pb.BackMessage(pong=pb.Pong(value=12345)).SerializeToString(), 110.0)
    assert side.round_trip == pytest.approx(0.25), "and only for what was asked"
    assert not side.silent(110.0 + SILENT_AFTER - 0.1)
    assert side.silent(110.0 + SILENT_AFTER) and not side.lost(110.0 + SILENT_AFTER)
    assert side.lost(110.0 + LOST_AFTER)
    assert not back.side.lost(101.5 + LOST_AFTER - 0.1)
    assert back.side.lost(101.5 + LOST_AFTER)


def test_pings_of_the_back_are_answered_and_a_flood_of_them_is_not_stored() -> None:
    ledger, back = Ledger(), Back()
    side = joined(ledger, back)
    drain(side, back)
    (ping,) = back.side.send(PING_EVERY)
    side.receive(ping, PING_EVERY)
    (pong,) = (m for m in map(pb.LeadMessage.FromString, side.send(0.5)) if m.HasField("pong"))
    assert pong.pong.value == pb.BackMessage.FromString(ping).ping.value
    for value in range(1000):
        side.receive(pb.BackMessage(ping=pb.Ping(value=value)).SerializeToString(), 1.0)
        back.side.receive(pb.LeadMessage(ping=pb.Ping(value=value)).SerializeToString(), 1.0)
    assert len(list(side.send(0.5))) <= MAX_WAITING_PINGS
    assert len(list(back.side.send(0.5))) <= MAX_WAITING_PINGS


def test_a_back_learns_how_far_the_lead_s_clock_is_ahead() -> None:
    """Clocks that have nothing in common; the answer that took least time counts."""
    side, me = LeadSide(LEAD, Ledger(), 5000.0), BackSide(BACK, 10.0, probes=3)
    side.receive(me.hello([]), 5000.0)
    assert list(me.send(10.0)) == [], "not before the Welcome"
    now, late = 10.0, [(0.3, 0.1), (0.002, 0.001), (0.5, 0.0)]
    for there, back_again in late:
        for message in side.send(now + 4990.0):
            me.receive(message, now)
        (ping,) = me.send(now)
        assert list(me.send(now)) == [], "one at a time"
        now += there
        side.receive(ping, now + 4990.0)
        (pong,) = side.send(now + 4990.0)
        now += back_again
        me.receive(pong, now)
    assert me.offset.ahead == pytest.approx(4990.0, abs=0.0015)
    assert me.offset.round_trip == pytest.approx(0.003)
    assert list(me.send(now)) == [], "after that once a second"
    (ping,) = me.send(now + PING_EVERY)
    known = me.offset.ahead
    value = pb.BackMessage.FromString(ping).ping.value
    for answer in (pb.Pong(value=value + 1, clock=1), pb.Pong(value=value)):
        me.receive(pb.LeadMessage(pong=answer).SerializeToString(), now + PING_EVERY)
    assert me.offset.ahead == known, "not from what was not asked, nor from a lead that does not say"


delays = st.floats(0, 10)


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(delays, delays, delays), min_size=1, max_size=20))
def test_the_clock_offset_is_right_to_half_a_round_trip(ahead: float, pings: list[tuple[float, float, float]]) -> None:
    offset, now = ClockOffset(), 0.0
    for pause, there, back_again in pings:
        now += pause
        sent, now = now, now + there + back_again
        offset.answered(sent, now, sent + there + ahead)
        assert offset.ahead is not None
        assert abs(offset.ahead - ahead) <= offset.round_trip / 2 + 1e-6
    # What is known ages.
    for _ in range(100):
        now += 1000.0
        offset.answered(now - 0.02, now, now + ahead + 1.0)
    assert offset.ahead == pytest.approx(ahead + 1.0, abs=0.02)


def test_the_lead_says_nothing_before_a_hello_and_the_back_nothing_before_a_welcome() -> None:
    side = LeadSide(LEAD, Ledger({1: entry(1, 3)}), 0.0)
    assert list(side.send(50.0)) == []
    assert list(BackSide(BACK, 0.0).send(50.0)) == []


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        SamplingParams,
        temperature=st.floats(0, 100),
        top_k=st.integers(0, 1 << 31),
        top_p=st.floats(0, 1, exclude_min=True),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0, 100, exclude_min=True),
        presence_penalty=st.floats(-100, 100),
        frequency_penalty=st.floats(-100, 100),
        logit_bias=st.dictionaries(st.integers(0, SIZE - 1), st.floats(allow_nan=False, allow_infinity=False)),
        seed=st.integers(0, 2**64 - 1),
    )
)
def test_sampling_parameters_arrive_bit_for_bit(sampling: SamplingParams) -> None:
    ledger, back = Ledger({1: entry(1, 1, sampling=sampling)}), Back()
    drain(joined(ledger, back), back)
    assert back.events[1] == Begun(1, sampling, 1)


# -- Refusals and garbage ------------------------------------------------------------------------------------------


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


def test_another_padding_of_the_same_vocabulary_is_not_another_one() -> None:
    """As that of Qwen 2.5, whose large models have 128 tokens more that mean nothing."""
    ledger = Ledger()
    for ours in (SIZE - 8, SIZE + 8):
        lead = LeadSide(Identity("lead", "target-13m", "fp", SIZE), ledger, 0.0)
        back = BackSide(Identity("mini", "draft", "fp", ours), 0.0)
        lead.receive(back.hello([]), 0.0)
        (welcome, *_) = lead.send(0.0)
        assert back.receive(welcome, 0.0) == Welcomed("mini", "target-13m", SIZE)
        commit = pb.LeadMessage(commit=pb.Commit(session=1, start=0, tokens=[SIZE - 1]))
        assert back.receive(commit.SerializeToString(), 0.0) == CommittedTokens(1, 0, [SIZE - 1], False)
        commit.commit.tokens[:] = [SIZE]
        with pytest.raises(ProtocolError, match=f"outside its vocabulary of {SIZE}"):
            back.receive(commit.SerializeToString(), 0.0)


def test_another_protocol_version_is_refused() -> None:
    error = refused(hello(protocol_version=VERSION + 1))
    assert f"protocol version {VERSION + 1}, this lead {VERSION}" in str(error)
    assert isinstance(error, RefusedError) and error.reason == pb.Refusal.REASON_PROTOCOL_VERSION


def test_another_vocabulary_is_refused() -> None:
    strange = [b"\x1b[31m\xff\n" * 9, *MEANINGS[: SIZE - 10]]
    told = pb.BackMessage(meanings=pb.Meanings(meanings=strange)).SerializeToString()
    error = refused(hello(model="dr\naft\x1b[31m" + "x" * 1000, vocabulary_fingerprint="other"), told)
    assert "another vocabulary" in str(error) and "target-13m" in str(error)
    assert ": 1000 of 1000 tokens differ, the first is 0: '0' in the target, " in str(error)
    assert isinstance(error, RefusedError) and error.reason == pb.Refusal.REASON_VOCABULARY


def test_of_a_much_larger_vocabulary_the_refusal_says_both_sizes_and_at_least() -> None:
    asked_for = SIZE + MAX_DIFFERING + 1
    told = pb.BackMessage(meanings=pb.Meanings(meanings=[b"?"] * asked_for)).SerializeToString()
    text = str(refused(hello(vocabulary_fingerprint="other", vocabulary_size=262_144), told))
    assert f"'draft' (262144 tokens) has another vocabulary than the target model 'target-13m' ({SIZE} tokens)" in text
    assert f": at least {asked_for} of {asked_for} tokens differ, " in text


def test_a_back_has_time_to_say_what_its_tokens_mean_as_long_as_it_goes_on() -> None:
    side = LeadSide(LEAD, Ledger(), 0.0)
    assert side.receive(hello(vocabulary_fingerprint="other"), 1.0) is None
    assert side.compare_until == 1.0 + LOST_AFTER
    more = pb.Meanings(meanings=MEANINGS[:MIN_MEANINGS], more=True)
    side.receive(pb.BackMessage(meanings=more).SerializeToString(), 9.0)
    assert side.compare_until == 9.0 + LOST_AFTER
    more.start, more.meanings[:] = MIN_MEANINGS, MEANINGS[MIN_MEANINGS : 2 * MIN_MEANINGS]
    side.receive(pb.BackMessage(meanings=more).SerializeToString(), COMPARED_WITHIN)
    assert side.compare_until == 1.0 + COMPARED_WITHIN, "and not for ever"
    one_line(side.too_slow())
    assert f"only of {2 * MIN_MEANINGS} tokens" in str(side.too_slow())
    # The lead has nothing to say all the while: the back is as patient.
    back = BackSide(BACK, 0.0)
    assert back.lost(LOST_AFTER)
    back.receive(next(side.send(0.0)), 0.0)
    assert not back.lost(COMPARED_WITHIN - 1) and back.lost(COMPARED_WITHIN)


def compared(
    target: Sequence[bytes], draft: Sequence[bytes], ledger: Ledger | None = None
) -> tuple[LeadSide, Back, Welcomed]:
    """Both sides after they have met, with these vocabularies."""
    ledger = Ledger() if ledger is None else ledger
    lead = LeadSide(Identity("lead", "target-13m", "a", len(target), target), ledger, 0.0)
    back = Back(Identity("mini", "draft-1m", "b", len(draft), draft))
    lead.receive(back.connect(), 0.0)
    messages = 0
    while not lead.greeted:
        drain(lead, back)
        assert not back.events
        for message in back.side.send(0.0):
            assert len(message) <= MAX_MESSAGE_BYTES
            lead.receive(message, 0.0)
            messages += 1
        assert messages
    drain(lead, back)
    assert isinstance(back.events[0], Welcomed)
    return lead, back, back.events[0]


def test_vocabularies_that_differ_in_a_few_tokens_work_together_and_both_sides_say_so() -> None:
    renamed = list(MEANINGS)
    renamed[7] = b"<|end|>"
    lead, back, welcomed = compared(MEANINGS, renamed)
    assert welcomed.differing == (7,) and welcomed.vocabulary_size == SIZE
    line = "1 of 1000 tokens differs, it is 7: '7' in the target, '<|end|>' in the draft"
    assert str(lead.comparison) == welcomed.difference == line
    # Fine-tunes have more special tokens, and pad what they have otherwise.
    more = [*MEANINGS, b"<think>", b"</think>", b"", b""]
    _, _, welcomed = compared(more, MEANINGS)
    assert welcomed.differing == (SIZE, SIZE + 1) and welcomed.vocabulary_size == SIZE + 4
    assert (
        welcomed.difference
        == "2 of 1002 tokens differ, the first is 1000: '<think>' in the target, nothing in the draft"
    )
    ledger = Ledger()
    lead, back, welcomed = compared(MEANINGS, more, ledger)
    assert welcomed.differing == (SIZE, SIZE + 1) and welcomed.vocabulary_size == SIZE
    ledger[1] = replace(entry(1, 5), ends=[5, 7])
    drain(lead, back)
    assert back.events[1] == Begun(1, SAMPLING, 5, ends=(5, 7))


def test_a_large_vocabulary_goes_in_bounded_messages() -> None:
    target = [b"%d" % token * 20 for token in range(50_000)]
    _, _, welcomed = compared(target, [*target[:49_999], b"?" * 256])
    assert welcomed.differing == (49_999,)


@pytest.mark.parametrize(
    "meanings",
    [
        pb.Meanings(start=1, meanings=[b"0"]),
        pb.Meanings(more=True),
        pb.Meanings(meanings=MEANINGS[: MIN_MEANINGS - 1], more=True),
        pb.Meanings(meanings=[b"x" * 257]),
        pb.Meanings(meanings=[b""] * (SIZE + MAX_DIFFERING + 2)),
    ],
    ids=["gap", "endless", "few", "long", "many"],
)
def test_meanings_that_make_no_sense_are_protocol_errors(meanings: pb.Meanings) -> None:
    told = pb.BackMessage(meanings=meanings).SerializeToString()
    error = refused(hello(vocabulary_fingerprint="other"), told)
    assert not isinstance(error, RefusedError)


def test_what_tokens_mean_is_told_when_it_is_asked_and_once() -> None:
    refused(hello(vocabulary_fingerprint="other"), status_to_wire("drafting"))
    side = joined(Ledger(), Back())
    with pytest.raises(ProtocolError):
        side.receive(pb.BackMessage(meanings=pb.Meanings()).SerializeToString(), 0.0)
    me, compare = BackSide(BACK, 0.0), pb.LeadMessage(compare=pb.Compare(tokens=3)).SerializeToString()
    assert me.receive(compare, 0.0) is None
    (told,) = me.send(0.0)
    assert list(pb.BackMessage.FromString(told).meanings.meanings) == MEANINGS[:3]
    assert list(me.send(0.0)) == []
    with pytest.raises(ProtocolError):
        me.receive(compare, 0.0)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        b"\xff" * 100,
        status_to_wire("drafting"),
        next(BackSide(BACK, 0.0).guesses({1: [Expansion(1, 1, [1], [0.5])]})),
        hello(known=[pb.Known(session=i) for i in range(MAX_KNOWN + 1)]),
        b"\0" * (MAX_MESSAGE_BYTES + 1),
    ],
    ids=["http", "empty", "noise", "status first", "guesses first", "too many known", "too large"],
)
def test_garbage_instead_of_a_hello_is_refused(first: bytes) -> None:
    refused(first)


def test_names_from_the_network_are_safe_to_show() -> None:
    side = LeadSide(LEAD, Ledger(), 0.0)
    side.receive(hello(name="evil\x1b]0;owned\x07\n" + "n" * 500, model="m\u202e\r"), 0.0)
    assert side.back is not None
    assert side.back.name.isprintable() and side.back.model.isprintable()
    assert len(side.back.name) <= 128
    nameless = LeadSide(LEAD, Ledger(), 0.0)
    nameless.receive(hello(name=""), 0.0)
    # proto3 cannot say "no name": the merged default stays.
    assert nameless.back is not None and nameless.back.name == "mini"


def expansion(tokens: int, probabilities: int, token: int = 1) -> pb.Expansion:
    return pb.Expansion(length=1, hash=1, tokens=[token] * tokens, probabilities=[0.5] * probabilities)


@pytest.mark.parametrize(
    "found",
    [
        [[expansion(1, 1, token=SIZE)]],
        [[expansion(1, 1)], [expansion(1, 1), expansion(2, 2, token=2**32 - 1)]],
        [[expansion(2, 1)]],
        [[expansion(1, 2)]],
        [[expansion(MAX_CHILDREN + 1, MAX_CHILDREN + 1)]],
        [[expansion(1, 1)] * MAX_EXPANSIONS, [expansion(1, 1)]],
        [[]] * (MAX_EXPANSIONS + 1),
    ],
    ids=["token", "large token", "few chances", "many chances", "many children", "many expansions", "many sessions"],
)
def test_impossible_guesses_are_protocol_errors(found: Sequence[Sequence[pb.Expansion]]) -> None:
    guesses = pb.Guesses(sessions=[pb.SessionGuesses(session=1, expansions=of) for of in found])
    side = joined(Ledger(), Back())
    with pytest.raises(ProtocolError) as error:
        side.receive(pb.BackMessage(guesses=guesses).SerializeToString(), 0.0)
    one_line(error.value)


def test_the_largest_guesses_allowed_fit_a_message() -> None:
    side = joined(Ledger(), Back())
    most = pb.Expansion(
        length=2**32 - 1,
        hash=2**64 - 1,
        tokens=[SIZE - 1] * MAX_CHILDREN,
        probabilities=[0.5] * MAX_CHILDREN,
    )
    of = [pb.SessionGuesses(session=2**64 - n, expansions=[most]) for n in range(1, MAX_EXPANSIONS + 1)]
    message = pb.BackMessage(guesses=pb.Guesses(sessions=of))
    assert side.receive(message.SerializeToString(), 0.0) is not None
    # The same with the largest tokens of any vocabulary.
    for one in message.guesses.sessions:
        one.expansions[0].tokens[:] = [2**32 - 1] * MAX_CHILDREN
    assert len(message.SerializeToString()) <= MAX_MESSAGE_BYTES
    assert MAX_COMMIT_TOKENS * 5 + 100 <= MAX_MESSAGE_BYTES


def test_the_largest_logit_bias_fits_a_message() -> None:
    biased = SamplingParams(logit_bias={2**32 - 1 - i: -1.5 for i in range(MAX_BIASES)})
    side = joined(Ledger({1: entry(1, 1, sampling=biased)}), Back())
    assert 100_000 < max(len(message) for message in side.send(0.0)) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "message",
    [
        pb.LeadMessage(welcome=pb.Welcome()),
        pb.LeadMessage(commit=pb.Commit(tokens=[SIZE])),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(temperature=-1))),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1), ends=[SIZE])),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1), ends=[1] * 257)),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1), turn=2, backs=2)),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(temperature=float("nan")))),
        pb.LeadMessage(begin=pb.Begin(sampling=pb.Sampling(top_p=1, repetition_penalty=1, logit_bias={SIZE: 1.0}))),
        pb.LeadMessage(),
    ],
    ids=["second welcome", "token", "temperature", "end", "ends", "turn", "nan", "bias", "empty"],
)
def test_a_lead_that_makes_no_sense_is_a_protocol_error(message: pb.LeadMessage) -> None:
    back = Back()
    drain(joined(Ledger(), back), back)
    with pytest.raises(ProtocolError) as error:
        back.side.receive(message.SerializeToString(), 0.0)
    assert not isinstance(error.value, RefusedError)
    one_line(error.value)


@pytest.mark.parametrize(
    "welcome",
    [
        pb.Welcome(differing=[3, 3]),
        pb.Welcome(differing=[4, 3]),
        pb.Welcome(differing=range(MAX_DIFFERING + 1)),
        pb.Welcome(first=b"x" * 257),
    ],
    ids=["twice", "order", "many", "long"],
)
def test_a_welcome_that_makes_no_sense_is_a_protocol_error(welcome: pb.Welcome) -> None:
    with pytest.raises(ProtocolError):
        BackSide(BACK, 0.0).receive(pb.LeadMessage(welcome=welcome).SerializeToString(), 0.0)


def test_a_refusal_is_shown_safely_whatever_it_says() -> None:
    message = pb.LeadMessage(refusal=pb.Refusal(message="no\n\x1b[2Jway " + "x" * 5000))
    with pytest.raises(RefusedError) as error:
        BackSide(BACK, 0.0).receive(message.SerializeToString(), 0.0)
    one_line(error.value)
    assert str(error.value).startswith("no??[2Jway")


def ends() -> list[LeadSide | BackSide]:
    """A lead's side and a back's side, before and after they have met."""
    ledger, back = Ledger({1: entry(1, 3)}), Back()
    side = joined(ledger, back)
    drain(side, back)
    comparing, asked = LeadSide(LEAD, ledger, 0.0), BackSide(BACK, 0.0)
    comparing.receive(hello(vocabulary_fingerprint="other"), 0.0)
    (compare,) = comparing.send(0.0)
    asked.receive(compare, 0.0)
    return [LeadSide(LEAD, ledger, 0.0), comparing, side, BackSide(BACK, 0.0), asked, back.side]


def hear_garbage(data: bytes) -> None:
    for end in ends():
        try:
            end.receive(data, 1.0)
        except ProtocolError as error:
            one_line(error)
            if isinstance(end, LeadSide):
                end.refusal(error)
        # Whatever was heard, it can go on talking, to say so at least.
        assert len(list(end.send(2.0))) < 20


numbers = st.floats()
samplings = st.builds(
    pb.Sampling,
    temperature=numbers,
    top_k=uint32,
    top_p=numbers,
    min_p=numbers,
    repetition_penalty=numbers,
    logit_bias=st.dictionaries(uint32, numbers, max_size=2),
    seed=uint64,
    grammar=texts,
)
of_lead = st.one_of(
    st.builds(
        pb.Welcome,
        protocol_version=uint32,
        name=texts,
        model=texts,
        vocabulary_size=uint32,
        differing=few,
        compared=uint32,
        first=st.binary(max_size=5),
    ).map(lambda m: pb.LeadMessage(welcome=m)),
    st.builds(pb.Compare, tokens=uint32).map(lambda m: pb.LeadMessage(compare=m)),
    st.builds(pb.Refusal, message=texts).map(lambda m: pb.LeadMessage(refusal=m)),
    st.builds(pb.Begin, session=uint64, sampling=samplings, prompt_length=uint32).map(
        lambda m: pb.LeadMessage(begin=m)
    ),
    st.builds(pb.Commit, session=uint64, start=uint32, tokens=few, more=st.booleans()).map(
        lambda m: pb.LeadMessage(commit=m)
    ),
    st.builds(pb.End, session=uint64).map(lambda m: pb.LeadMessage(end=m)),
    st.builds(pb.Ping, value=uint64).map(lambda m: pb.LeadMessage(ping=m)),
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_protocol_errors_at_most(data: bytes) -> None:
    hear_garbage(data)


@settings(max_examples=150, deadline=None)
@given(st.one_of(of_back, of_lead), st.data())
def test_arbitrary_and_damaged_messages_are_protocol_errors_at_most(
    message: pb.BackMessage | pb.LeadMessage, data: st.DataObject
) -> None:
    whole = bytearray(message.SerializeToString())
    hear_garbage(bytes(whole))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)):
        if whole:
            whole[place % len(whole)] = byte
    hear_garbage(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
