"""The drafting thread."""

from __future__ import annotations

import threading

from back.drafter import Drafter
from back.drafting import Found
from duo.errors import DuoError, ProtocolError
from duo.sampling.params import SamplingParams
from duo.wire.messages import Begun, CommittedTokens, Event
from tests.support.desk import UNSURE, Desk, Moody


def test_a_failure_in_the_thread_is_told_once_and_it_goes_on() -> None:
    errors: list[DuoError] = []
    failed, heard = threading.Event(), threading.Event()

    def fail(error: DuoError) -> None:
        errors.append(error)
        failed.set()

    class Noting(Desk):
        def receive(self, found: Found) -> None:
            super().receive(found)
            heard.set()

    desk = Noting(model=Moody())
    desk.heard[1] = []
    drafter = Drafter(desk.drafting, fail)
    drafter.start()
    try:
        desk.engine.fault = RuntimeError("out of memory")
        events: list[Event] = [
            Begun(1, SamplingParams(temperature=0.0), 3),
            CommittedTokens(1, 0, [UNSURE, 5, 6], False),
        ]
        for event in events:
            drafter.hear(event)
        assert failed.wait(30.0) and desk.drafting.known() == []
        desk.engine.fault = None
        for event in events:
            drafter.hear(event)
        assert heard.wait(30.0)
    finally:
        drafter.stop()
    (error,) = errors
    assert isinstance(error, ProtocolError) and "out of memory" not in str(error)
