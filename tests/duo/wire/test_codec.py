"""Messages as bytes: they arrive as they were sent, they fit, and garbage is a protocol error."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from duo.errors import ProtocolError
from duo.guesses import Expansion
from duo.sampling.params import SamplingParams
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.codec import expansion_count, guess_count, status_to_wire
from duo.wire.front_side import FrontSide, verdict
from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import (
    MAX_BIASES,
    MAX_CHILDREN,
    MAX_COMMIT_TOKENS,
    MAX_EXPANSIONS,
    MAX_MESSAGE_BYTES,
    Begun,
    Guessed,
    State,
    StatusCame,
)
from tests.support.wire import (
    BACK,
    LEAD,
    SIZE,
    Back,
    drain,
    entry,
    expansion,
    few,
    hello,
    joined,
    of_back,
    one_line,
    texts,
    uint32,
    uint64,
)


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
    for look in (lambda: FrontSide(data, 1.0), lambda: verdict(data)):
        try:
            look()
        except ProtocolError as error:
            one_line(error)


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
    st.builds(pb.Wait, message=texts).map(lambda m: pb.LeadMessage(wait=m)),
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
