"""Guesses on their way to the decode loop."""

from __future__ import annotations

from lead.decode.inbox import Inbox, Message


def test_nobody_waits_for_letters_that_are_there() -> None:
    box = Inbox()
    for number in range(3):
        box.put(Message("back", float(number), []))
    for message in box.take():
        assert message.came == 0.0
        break
    assert box.wait(30.0), "what is left"
    assert [message.came for message in box.take()] == [1.0, 2.0]
    assert not box.wait(0.0)
