"""Messages of a back, made by hand."""

from __future__ import annotations

from hypothesis import strategies as st

from duo.v1 import duo_pb2 as pb
from duo.wire.messages import (
    VERSION,
)

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
