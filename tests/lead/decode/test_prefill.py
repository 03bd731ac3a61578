"""Which prompts a forward pass reads, and how much of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from duo.errors import DuoError
from lead.decode.prefill import CHUNK
from lead.plan.arrivals import DraftOffer
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.speculation import Action
from lead.plan.tree import GuessTree
from lead.plan.verify_all import VerifyAll
from tests.support.loop import FLAT, GREEDY, MODEL, Asked, Fixed, Loop, breaks, reading_apart, talkative
from tests.support.slotted import CHAINS, SlottedEngine


@pytest.mark.parametrize("own", [9, 30])
def test_a_prompt_that_begins_like_another_does_not_wait_for_what_cannot_be_shared(own: int) -> None:
    """Where the state goes back to checkpoints only, none may lie within what two prompts have in common."""
    loop = Loop(2, Planner(Fixed(FLAT), Limits(rollback=CHAINS)), engine=SlottedEngine(MODEL, 2, CHAINS, 200))
    loop.engine.batch = 96
    answering = loop.ask(Asked([4 + i % 7 for i in range(60)], GREEDY, 4))
    other = loop.ask(Asked([4 + i % 7 for i in range(40)] + [4] * own, GREEDY, 4))
    loop.turn()
    assert [slot for slot, _ in loop.engine.chunks] == [0, 1], "both in the first pass"
    loop.finish()
    assert other.request.cached_tokens == 0 and loop.engine.shared == 0
    assert answering.tokens == answering.expected and other.tokens == other.expected


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ([9] * 60, [9] * 55 + [8] * 5, 50),  # up to a checkpoint
        ([9] * 60, [9] * 60 + [8] * 5, 60),  # up to the end of the other prompt
    ],
)
def test_a_prompt_waits_for_a_checkpoint_that_it_can_go_on_from(
    first: list[int], second: list[int], shared: int
) -> None:
    loop = Loop(2, Planner(Fixed(FLAT), Limits(rollback=CHAINS)), engine=SlottedEngine(MODEL, 2, CHAINS, 50))
    one, other = (loop.ask(Asked(prompt, GREEDY, 4)) for prompt in (first, second))
    loop.finish()
    assert other.request.cached_tokens == loop.engine.shared == shared
    assert one.tokens == one.expected and other.tokens == other.expected


def test_how_likely_a_prompt_is_is_told_again_though_the_cache_holds_it() -> None:
    loop = Loop(2)
    prompt = [4 + i % 7 for i in range(100)]
    first = loop.ask(Asked(prompt, GREEDY, 4))
    loop.finish()
    scored, beside = loop.ask(Asked(prompt, GREEDY, 4, scored=True)), loop.ask(talkative())
    while scored.request.status != "answering":
        had = len(beside.tokens)
        loop.turn()
        assert beside.request.status != "answering" or len(beside.tokens) > had, "others go on meanwhile"
    loop.finish()
    assert scored.tokens == first.tokens and scored.scores_are_right()
    assert scored.request.cached_tokens == 0 and scored.request.read_tokens == len(prompt) - 1
    again = loop.ask(Asked(prompt, GREEDY, 4))
    loop.finish()
    assert again.tokens == first.tokens and again.request.cached_tokens == len(prompt) - 1


def test_a_prompt_that_is_read_anew_leaves_conversations_their_caches() -> None:
    loop = Loop(2)
    conversation = loop.ask(Asked([9] * 60, GREEDY, 4))
    loop.finish()
    scored = loop.ask(Asked([9] * 40, GREEDY, 1, scored=True))
    loop.turn()
    assert not loop.ledger, "no back drafts for an answer of one token"
    loop.finish()
    assert scored.scores_are_right()
    again = loop.ask(Asked([9] * 60 + conversation.tokens, GREEDY, 4))
    loop.finish()
    assert again.request.cached_tokens >= 60


def test_while_a_prompt_is_scored_nobody_waits_for_guesses() -> None:
    rooms: list[int | None] = []

    class Watched(Planner):
        def next(
            self, trees: Sequence[GuessTree], now: float, own: DraftOffer | None = None, room: int | None = None
        ) -> Action:
            rooms.append(room)
            return super().next(trees, now, own, room)

    loop = Loop(2, Watched(Fixed(FLAT), Limits(draft_max=8, rows=32)))
    loop.ask(talkative())
    loop.turn()
    scored = loop.ask(Asked([6] * 100, GREEDY, 2, scored=True))
    rooms.clear()
    loop.turn()
    loop.turn()
    assert scored.request.status == "reading" and rooms and None not in rooms


def test_a_prompt_whose_likelihood_cannot_be_found_ends_no_other_answer() -> None:
    loop = Loop(2)
    fine = loop.ask(Asked([5], GREEDY, 12))
    loop.turn()
    bad = loop.ask(Asked([6] * 20, GREEDY, 4, scored=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.engine.parts[1], "commit", breaks)
        loop.turn()
    assert bad.ended and "broken" in str(bad.error)
    later = loop.ask(Asked([6] * 20, GREEDY, 4, scored=True))
    loop.finish()
    assert fine.tokens == fine.expected
    assert later.tokens == later.expected and later.scores_are_right()


def test_prompts_are_read_in_the_forward_passes_of_those_who_answer() -> None:
    loop = Loop(3)
    first = loop.ask(Asked([5, 6, 7], GREEDY, 12))
    loop.turn()
    assert len(loop.engine.widths) == 1 and first.tokens, "its prompt and its first token in one pass"
    others = [loop.ask(Asked([8 + i, 6, 7, 8], GREEDY, 12)) for i in range(2)]
    loop.turn()
    assert loop.engine.widths[1:] == [{0, 1, 2}]
    assert loop.engine.chunks == [(0, 2), (1, 3), (2, 3)]
    assert all(one.tokens for one in others)
    loop.finish()
    assert all(one.tokens == one.expected for one in [first, *others])


def test_prompts_leave_room_for_guesses_in_a_pass_and_guesses_for_prompts() -> None:
    """The engine says so if a pass is wider than its batch."""
    for everything in (False, True):
        loop = Loop(3, VerifyAll(Limits(draft_max=16, rows=48)) if everything else None)
        asked = [loop.ask(talkative())]
        for number, length in enumerate((44, 45, 46, 47, 48, 49, 60, 100, 140)):
            asked.append(loop.ask(Asked([4 + (number + i * i) % 8 for i in range(length)], GREEDY, 6)))
        for _ in range(200):
            if loop.decoder.waiting or loop.decoder.running:
                loop.guess(doubt=0.0)
                loop.turn()
        assert all(one.error is None and one.tokens == one.expected for one in asked)
        assert any(one.request.session.total.accepted for one in asked)


def test_guesses_are_not_lost_while_a_prompt_is_read_apart() -> None:
    loop = Loop(2, VerifyAll(Limits(4, rows=32, rollback=CHAINS)), engine=reading_apart(2))
    first = loop.ask(talkative())
    loop.turn()
    other = loop.ask(Asked([4 + i % 8 for i in range(200)], GREEDY, 4))
    while other.request.status != "answering":
        before = first.request.session.total.accepted
        loop.guess(doubt=0.0)
        loop.turn()
        assert first.request.session.total.accepted > before
    loop.finish()
    assert first.tokens == first.expected and other.tokens == other.expected


def test_prompts_are_read_apart_where_passes_do_not_mix() -> None:
    loop = Loop(2, engine=reading_apart(2))
    asked = [loop.ask(Asked([5, 6, 7, 8], GREEDY, 6)), loop.ask(Asked([9, 6, 7, 8], GREEDY, 6))]
    loop.turn()
    assert loop.engine.widths == [set(), {0, 1}]
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)


def test_a_long_prompt_does_not_hold_up_an_answer_in_progress() -> None:
    loop = Loop(2)
    quick = loop.ask(Asked([5], GREEDY, 12))
    loop.turn()
    before = len(quick.tokens)
    long = loop.ask(Asked([6] * 200, GREEDY, 4))
    while long.request.status != "answering" or len(loop.engine.chunks) < 2:
        had = len(quick.tokens)
        loop.turn()
        assert quick.ended or len(quick.tokens) > had, "a token for each piece that is read"
        if quick.ended:
            break
    assert len(quick.tokens) > before
    assert max(length for _, length in loop.engine.chunks) <= max(CHUNK, loop.engine.batch)
    loop.finish()


def test_a_prompt_that_cannot_be_read_ends_no_other_answer() -> None:
    loop = Loop(2)
    fine = loop.ask(Asked([5], GREEDY, 12))
    loop.turn()
    bad = loop.ask(Asked([6] * 30, GREEDY, 4))
    part = loop.engine.parts[1]
    part.extend = _fails  # type: ignore[method-assign]
    loop.finish()
    assert bad.error is not None and "no room" in str(bad.error)
    assert fine.error is None and fine.tokens == fine.expected
    del part.extend
    part.committed.append(1)  # whatever is left there must not be taken for a prompt
    later = loop.ask(Asked([6] * 30, GREEDY, 4))
    loop.finish()
    assert later.tokens == later.expected


def _fails(slot: int, tokens: Sequence[int]) -> None:
    raise DuoError("no room")
