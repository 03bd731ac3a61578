"""What a back holds in the end is what the ledger holds, however streams break.

The wire is a deque of bytes. So a test can write down every interleaving of the two sides and of broken streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from duo.wire.lead_side import LeadSide
from duo.wire.ledger import Ledger
from duo.wire.messages import MAX_COMMIT_TOKENS, MAX_MESSAGE_BYTES, PING_EVERY
from tests.support.wire import SIZE, Back, agree, entry, joined


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
        """The lead writes a few messages. It may stop between any two."""
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
        """Whatever happened: once both sides read and write, the back holds what the lead does."""
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
