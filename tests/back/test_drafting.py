"""What a back hears and sends: sessions that come and go, bundles of guesses, a new stream."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from back.drafting import Found
from duo.draft.pacing import MIN_PAUSE
from duo.wire.back_side import BackSide
from duo.wire.messages import Identity, Welcomed
from tests.support.desk import LONG, SURE, UNSURE, Desk, Moody
from tests.support.fakes import FakeModel, hash_of

ME = Identity("mini", "draft", "fp", FakeModel.size)


@pytest.fixture
def desk() -> Desk:
    return Desk(model=Moody())


def test_one_message_tells_of_all_sessions_and_the_next_waits_a_little() -> None:
    clock = SimpleNamespace(now=0.0)
    sent: list[tuple[float, int]] = []

    class Noting(Desk):
        def receive(self, found: Found) -> None:
            sent.append((clock.now, len(list(BackSide(ME, 0.0).guesses(found)))))
            super().receive(found)

    desk = Noting(n_ahead=64, clock=lambda: clock.now)
    for session in (1, 2, 3):
        desk.begin(session, [session, 5, 6])
    desk.work(1)
    assert sent == [(0.0, 1)]
    assert all(desk.guessed(session) for session in (1, 2, 3))
    for _ in range(3):
        clock.now += MIN_PAUSE / 8
        assert desk.work(1) == 1
    assert any(it.draft.idle for it in desk.drafting.sessions.values())
    assert len(sent) == 1
    clock.now = MIN_PAUSE
    assert desk.work(1) == 1
    assert sent[1:] == [(MIN_PAUSE, 1)]
    # Nobody has to wait for what is found last, nor for what is found first where an answer went elsewhere.
    desk.work()
    assert not any(it.found for it in desk.drafting.sessions.values())
    before, guesses = len(sent), desk.heard[1][0].tokens
    clock.now += MIN_PAUSE / 8
    desk.commit(1, [next(token for token in range(4, 12) if token not in guesses)])
    assert desk.work(1) == 1
    assert len(sent) == before + 1 and not desk.drafting.sessions[1].draft.idle
    clock.now += MIN_PAUSE / 8
    assert desk.work(1) == 1
    assert len(sent) == before + 1


def test_a_session_that_outgrows_the_context_is_dropped_alone(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    end = desk.engine.context
    desk.begin(1, [SURE] + [5] * (end - 4))
    desk.begin(2, [UNSURE, 5, 6])
    desk.begin(3, [SURE] + [5] * end)
    assert set(desk.drafting.sessions) == {1, 2}, "one whose prompt does not fit is never read"
    desk.work()
    assert desk.guessed(1) and desk.guessed(2)
    assert max(e.length for e in desk.heard[1]) == end
    desk.commit(1, desk.asked[1].picks(3))
    desk.commit(1, desk.asked[1].picks(1))
    desk.commit(2, desk.asked[2].picks(1))
    desk.work()
    assert set(desk.drafting.sessions) == {2}
    assert desk.guessed(2)
    assert f"{end + 1} tokens do not fit the draft model's context of {end}" in caplog.text
    assert caplog.text.count("not drafting for this answer any more") == 2


def test_after_a_failure_nothing_is_known_and_all_begins_anew(desk: Desk) -> None:
    for session in (1, 2):
        desk.begin(session, [UNSURE, 5, session])
    desk.work(3)
    for session in (1, 2):
        desk.commit(session, [5, 6])
    desk.engine.fault = RuntimeError("out of memory")
    with pytest.raises(RuntimeError):
        desk.work(1)
    desk.drafting.forget()
    desk.engine.fault = None
    assert desk.drafting.known() == []
    for session in (1, 2):
        desk.begin(session, [UNSURE, 5, session])
    desk.work()
    assert desk.guessed(1) and desk.guessed(2)


def test_after_a_new_stream_all_is_said_again(desk: Desk) -> None:
    for session in (1, 2):
        desk.begin(session, [UNSURE, *LONG[:40], session])
    desk.work()
    said, read = {session: len(desk.heard[session]) for session in (1, 2)}, desk.engine.read
    assert [session for session, _ in desk.drafting.known()] == [1, 2]  # for the Hello
    desk.drafting.hear(Welcomed("back", "target", FakeModel.size))
    desk.heard = {1: [], 2: []}
    desk.work()
    assert {session: len(desk.heard[session]) for session in (1, 2)} == said
    assert desk.engine.read == read, "but not read again"


def test_what_the_hello_did_not_name_is_forgotten(desk: Desk) -> None:
    """News of the last stream may be heard after the Hello. The lead never reports the end of such a session."""
    desk.begin(1, [UNSURE, *LONG[:40], 1])
    desk.work()
    desk.drafting.known()
    desk.begin(2, [UNSURE, *LONG[:40], 2])
    desk.drafting.hear(Welcomed("back", "target", FakeModel.size))
    assert [session for session, _ in desk.drafting.known()] == [1]


def test_text_of_a_session_is_read_ahead_for_that_session_alone() -> None:
    text = [SURE, *(4 + (7 * i * i + i // 3) % 8 for i in range(60))]
    desk = Desk(model=Moody(), n_ahead=16)
    desk.begin(1, [*text, 5, 5, *text[:20]])
    desk.begin(2, text[:20])

    def foreseen(session: int) -> list[int]:
        """The line of known text below the last token."""
        node, line = desk.draft(session).root, list[int]()
        while node is not None and (node := next((it for it in node.children.values() if it.foreseen), None)):
            line.append(node.token)
        return line

    assert len(foreseen(1)) > 3 and foreseen(1) == text[20 : 20 + len(foreseen(1))]
    assert foreseen(2) == [], "nothing of the other session is known to it"
    places = {(83 + n, hash_of([*text, 5, 5, *text[: 20 + n]])) for n in range(len(foreseen(1)) + 1)}
    desk.work()
    assert places <= {(e.length, e.hash) for e in desk.heard[1]}
