"""Many answers in one decode loop: each is what it would be alone, whoever comes and goes meanwhile.

The decoder's own steps are called from here instead of its thread, so that every order of events can be tried.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.engines import Chunk, Engine, Logits, Row
from duo.engines.base import TREES, Rollback
from duo.engines.cost import CostCurve
from duo.engines.replay import Checkpoints, Replay, Replayed
from duo.errors import DuoError, StoppedError
from duo.guesses import Expansion
from duo.prefix import Prefix
from duo.sampling.logprobs import logprobs
from duo.sampling.params import SamplingParams
from duo.trace import Trace
from duo.wire.ledger import Ledger
from lead.decode import loop as decoder
from lead.decode.inbox import Inbox, Message
from lead.decode.loop import CHUNK, Decoder
from lead.decode.request import Job
from lead.decode.session import Session, Step
from lead.plan.arrivals import DraftOffer
from lead.plan.planner import Planner
from lead.plan.schedule import Growing, Limits, Plan, Schedule
from lead.plan.tree import Place
from lead.plan.verify_all import VerifyAll
from tests.support.fakes import SIZE, FakeModel
from tests.support.slotted import CHAINS, EOS, FORWARD, REPLAY, SlottedEngine
from tests.support.texts import text_without_backs

MODEL = FakeModel()


class Asked:
    """A job, and what became of it."""

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        count: int = 12,
        scored: bool = False,
        stop_tokens: Collection[int] = (),
    ) -> None:
        self.tokens: list[int] = []
        self.ended = False
        self.error: DuoError | None = None
        self.expected = text_without_backs(prompt, sampling, {EOS, *stop_tokens}, len(prompt) + count)
        self.job = Job(
            prompt=list(prompt), sampling=sampling, max_tokens=count, ignore_eos=False,
            on_step=self._step, on_end=self._end, stop_tokens=stop_tokens, top_logprobs=2 if scored else None,
            prompt_logprobs=[] if scored else None,
        )  # fmt: skip

    def scores_are_right(self) -> bool:
        prompt = list(self.job.prompt)
        expected = [logprobs(MODEL.logits(prompt[:at]), prompt[at], 2) for at in range(1, len(prompt))]
        return self.job.prompt_logprobs == (expected if self.job.top_logprobs is not None else None)

    def _step(self, step: Step) -> None:
        assert not self.ended
        assert self.tokens or self.scores_are_right(), "known before the first token"
        self.tokens += [done.token for done in step.committed]

    def _end(self, error: DuoError | None) -> None:
        assert not self.ended
        self.ended, self.error = True, error


class Fixed(CostCurve):
    """One that learns nothing of how long the fake engine takes."""

    def observe(self, rows: int, seconds: float) -> None:
        assert rows > 0 and seconds >= 0.0


FLAT = {1: 1.0, 8: 1.1, 48: 2.0}
STEEP = {1: 1.0, 2: 2.8, 4: 3.5, 8: 5.0}


class Loop:
    """A decoder without its thread."""

    def __init__(
        self,
        slots: int,
        schedule: Schedule | None = None,
        engine: SlottedEngine | None = None,
    ) -> None:
        self.engine = engine or SlottedEngine(MODEL, slots)
        self.ledger = Ledger()
        planner = schedule or Planner(Fixed(FLAT), Limits(draft_max=8, rows=32))
        self.decoder = Decoder(cast(Engine, self.engine), self.ledger, lambda: None, lambda: None, planner, Trace())

    def ask(self, asked: Asked) -> Asked:
        self.decoder.submit(asked.job)
        return asked

    def turn(self) -> None:
        """Once round the loop."""
        self.decoder.turn()

    def finish(self) -> None:
        for _ in range(1000):
            if not self.decoder.waiting and not self.decoder.running:
                return
            self.turn()
        raise AssertionError("answers do not come to an end")

    def guess(self, doubt: float = 0.3, far: int = 1) -> None:
        """A back says something about every open session, now and then the right thing, `far` tokens ahead."""
        model = FakeModel(doubt)
        for entry in list(self.ledger.values()):
            prefix, expansions = Prefix(entry.prefix.tokens), list[Expansion]()
            for _ in range(far):
                token = int(model.logits(prefix.tokens).argmax())
                guesses = [token, (token + 1) % SIZE]
                expansions.append(Expansion(len(prefix), prefix.hash, guesses, [0.9, 0.1]))
                prefix.extend([token])
            self.decoder.inbox.put(Message("back", 0.0, [(entry.session, expansions)]))


GREEDY = SamplingParams(temperature=0.0)


def talkative() -> Asked:
    """A question with an answer of 40 tokens."""
    return next(it for n in range(100) if len((it := Asked([4 + n % 8, 4 + n // 8], GREEDY, 40)).expected) == 40)


def test_backs_hear_of_all_tokens_that_end_an_answer() -> None:
    plain = talkative()
    stop = next(token for token in plain.expected[3:] if token not in plain.expected[:3])
    stopped = Asked(plain.job.prompt, GREEDY, 40, stop_tokens=(stop,))
    assert stopped.expected == plain.expected[: plain.expected.index(stop) + 1]
    free = Asked(plain.job.prompt, GREEDY, 40)
    free.job.ignore_eos = True
    loop = Loop(2)
    for asked in (stopped, free):
        loop.ask(asked)
    loop.turn()
    assert [entry.ends for entry in loop.ledger.values()] == [sorted({EOS, stop}), []]
    for _ in range(40):
        loop.guess()
        loop.turn()
    assert stopped.ended and stopped.tokens == stopped.expected
    assert stopped.job.session is not None and stopped.job.session.finish_reason == "stop"


prompts = st.lists(st.integers(4, SIZE - 1), min_size=1, max_size=80)
temperatures = st.sampled_from([0.0, 0.7, 1.5])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(prompts, temperatures, st.integers(1, 14), st.integers(0, 6), st.sampled_from([False, False, True])),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
    st.sampled_from(["flat", "steep", "everything"]),
    st.booleans(),
    st.sampled_from([TREES, CHAINS, REPLAY, FORWARD]),
    st.sampled_from([0, 16]),
    st.booleans(),
)
def test_every_answer_is_what_it_would_be_alone(
    slots: int,
    questions: list[tuple[list[int], float, int, int, bool]],
    guessing: bool,
    schedule: str,
    chains: bool,
    rollback: Rollback,
    spacing: int,
    mixes: bool,
) -> None:
    """Whatever the model's memory allows."""
    engine = SlottedEngine(MODEL, slots, rollback, spacing)
    engine.mixes = mixes
    limits = Limits(draft_max=4, rows=32, rollback=rollback._replace(trees=False) if chains else rollback)

    def planner(seconds: dict[int, float]) -> Planner:
        cost = Fixed(seconds)
        return Planner(cost, limits, replay=Replay(Checkpoints(0.1, 0.05), cost) if rollback.replay else None)

    schedules: dict[str, Schedule] = {
        "flat": planner(FLAT), "steep": planner(STEEP), "everything": VerifyAll(limits)
    }  # fmt: skip
    loop = Loop(slots, schedules[schedule], engine)
    asked: list[Asked] = []
    for number, (prompt, temperature, count, pause, scored) in enumerate(questions):
        asked.append(loop.ask(Asked(prompt, SamplingParams(temperature=temperature, seed=number), count, scored)))
        for _ in range(pause):
            if guessing:
                loop.guess(far=1 + pause)
            if loop.decoder.waiting or loop.decoder.running:
                loop.turn()
    loop.finish()
    for one in asked:
        assert one.ended and one.error is None
        assert one.tokens == one.expected and one.scores_are_right()
        cached = one.job.cached_tokens
        assert one.job.read_tokens == len(one.job.prompt) - 1 and 0 <= cached < len(one.job.prompt)
    assert not loop.ledger
    reused = sum(one.job.cached_tokens for one in asked)
    as_rows = sum(len(one.job.prompt) - 1 for one in asked if one.job.prompt_logprobs is not None)
    read = sum(length for _, length in engine.chunks)
    assert read + reused + as_rows == sum(one.job.read_tokens for one in asked), "what is told is what was reused"


@pytest.mark.parametrize("everything", [False, True])
def test_a_model_that_does_not_go_back_is_served_without_guesses(everything: bool) -> None:
    limits = Limits(draft_max=8, rows=32, rollback=FORWARD)
    schedule: Schedule = VerifyAll(limits) if everything else Planner(Fixed(FLAT), limits)
    loop = Loop(2, schedule, engine=SlottedEngine(MODEL, 2, FORWARD, 16))
    asked = [loop.ask(talkative()) for _ in range(2)]
    loop.turn()
    assert not schedule.speculates and not loop.ledger, "no back is told of anything"
    loop.finish()
    assert all(one.tokens == one.expected for one in asked) and not loop.engine.dropped


@pytest.mark.parametrize("rollback", [CHAINS, REPLAY])
def test_chains_are_verified_as_far_as_the_model_goes_back(rollback: Rollback) -> None:
    limits = Limits(draft_max=16, rows=32, rollback=rollback)
    loop = Loop(1, VerifyAll(limits), engine=SlottedEngine(MODEL, 1, rollback, 16))
    asked = loop.ask(talkative())
    loop.turn()
    steps = list[int]()
    while loop.decoder.running:
        loop.guess(doubt=0.5 * (len(steps) % 2), far=9)
        before = len(asked.tokens)
        loop.turn()
        steps.append(len(asked.tokens) - before)
    assert asked.tokens == asked.expected and asked.job.session is not None
    assert max(steps) == 1 + rollback.depth and loop.engine.dropped


def test_what_a_replay_takes_is_told_apart_from_the_forward_pass() -> None:
    told: list[tuple[int, Replayed]] = []

    class Watched(VerifyAll):
        def finished(self, now: float, rows: int, *rest: Any) -> None:
            told.append((rows, rest[-1]))

    loop = Loop(1, Watched(Limits(rollback=REPLAY)), engine=SlottedEngine(MODEL, 1, REPLAY))
    asked = loop.ask(talkative())
    loop.turn()
    loop.guess(doubt=0.0, far=2)
    loop.turn()
    (entry,) = loop.ledger.values()
    right = asked.expected[len(asked.tokens)]
    after = Prefix([*entry.prefix.tokens, right])
    wrong = (asked.expected[len(asked.tokens) + 1] + 1) % SIZE
    line = [
        Expansion(len(entry.prefix), entry.prefix.hash, [right], [0.9]),
        Expansion(len(after), after.hash, [wrong], [0.9]),
    ]
    loop.decoder.inbox.put(Message("back", 0.0, [(entry.session, line)]))
    loop.turn()
    loop.finish()
    assert [(rows, it.saved, it.rows, it.seconds > 0.0) for rows, it in told[:4]] == [
        (1, 0, [], False), (3, 1, [], False), (3, 1, [2], True), (1, 0, [], False)
    ]  # fmt: skip


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
    assert other.job.cached_tokens == 0 and loop.engine.shared == 0
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
    assert other.job.cached_tokens == loop.engine.shared == shared
    assert one.tokens == one.expected and other.tokens == other.expected


def test_a_conversation_goes_on_from_where_it_ended_though_its_state_cannot_be_cut() -> None:
    loop = Loop(2, Planner(Fixed(FLAT), Limits(rollback=CHAINS)), engine=SlottedEngine(MODEL, 2, CHAINS, 50))
    first = loop.ask(Asked([9] * 60, GREEDY, 4))
    loop.finish()
    longer = loop.ask(Asked([9] * 60 + first.tokens + [7, 7], GREEDY, 4))
    loop.finish()
    assert longer.job.cached_tokens == 60 + len(first.tokens) - 1
    stranger = loop.ask(Asked([9] * 55 + [8] * 5, GREEDY, 4))
    loop.finish()
    assert stranger.job.cached_tokens == 50 and stranger.tokens == stranger.expected


def test_how_likely_a_prompt_is_is_told_again_though_the_cache_holds_it() -> None:
    loop = Loop(2)
    prompt = [4 + i % 7 for i in range(100)]
    first = loop.ask(Asked(prompt, GREEDY, 4))
    loop.finish()
    scored, beside = loop.ask(Asked(prompt, GREEDY, 4, scored=True)), loop.ask(talkative())
    while scored.job.state != "answering":
        had = len(beside.tokens)
        loop.turn()
        assert beside.job.state != "answering" or len(beside.tokens) > had, "others go on meanwhile"
    loop.finish()
    assert scored.tokens == first.tokens and scored.scores_are_right()
    assert scored.job.cached_tokens == 0 and scored.job.read_tokens == len(prompt) - 1
    again = loop.ask(Asked(prompt, GREEDY, 4))
    loop.finish()
    assert again.tokens == first.tokens and again.job.cached_tokens == len(prompt) - 1


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
    assert again.job.cached_tokens >= 60


def test_while_a_prompt_is_scored_nobody_waits_for_guesses() -> None:
    rooms: list[int | None] = []

    class Watched(Planner):
        def plan(
            self, trees: Sequence[Growing], now: float, own: DraftOffer | None = None, room: int | None = None
        ) -> Plan:
            rooms.append(room)
            return super().plan(trees, now, own, room)

    loop = Loop(2, Watched(Fixed(FLAT), Limits(draft_max=8, rows=32)))
    loop.ask(talkative())
    loop.turn()
    scored = loop.ask(Asked([6] * 100, GREEDY, 2, scored=True))
    rooms.clear()
    loop.turn()
    loop.turn()
    assert scored.job.state == "reading" and rooms and None not in rooms


def test_a_prompt_whose_likelihood_cannot_be_found_ends_no_other_answer() -> None:
    loop = Loop(2)
    fine = loop.ask(Asked([5], GREEDY, 12))
    loop.turn()
    bad = loop.ask(Asked([6] * 20, GREEDY, 4, scored=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.engine.parts[1], "commit", _breaks)
        loop.turn()
    assert bad.ended and "broken" in str(bad.error)
    later = loop.ask(Asked([6] * 20, GREEDY, 4, scored=True))
    loop.finish()
    assert fine.tokens == fine.expected
    assert later.tokens == later.expected and later.scores_are_right()


def test_answers_share_forward_passes() -> None:
    loop = Loop(4)
    asked = [loop.ask(Asked([4 + i], SamplingParams(seed=i), 6)) for i in range(4)]
    loop.finish()
    assert {0, 1, 2, 3} in loop.engine.widths
    assert all(one.tokens == one.expected for one in asked)


def test_answers_take_turns_where_a_second_row_is_dear() -> None:
    loop = Loop(2, Planner(Fixed(STEEP), Limits(draft_max=2, rows=32)))
    asked = [loop.ask(talkative()) for _ in range(2)]
    loop.turn()
    while not any(one.ended for one in asked):
        loop.turn()
    assert len(loop.engine.widths) > 40 and {0, 1} not in loop.engine.widths
    assert all(one != two for one, two in pairwise(loop.engine.widths))
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)


def test_newcomers_do_not_push_in_where_answers_take_turns() -> None:
    """Theirs are prompts that need no reading, and answers of one token."""
    loop = Loop(2, Planner(Fixed(STEEP), Limits(draft_max=2, rows=32)))
    long = loop.ask(talkative())
    for number in range(100):
        loop.ask(Asked([4 + number % 8], GREEDY, 1))
    for _ in range(100):
        loop.turn()
    assert long.ended and long.tokens == long.expected


def test_more_answers_than_slots_wait_in_their_order() -> None:
    loop = Loop(2)
    order: list[int] = []
    asked = [Asked([4 + i, 6, 7], SamplingParams(seed=i), 8) for i in range(5)]
    for one in asked:
        loop.ask(one)
    assert loop.decoder.room == 2 - 5
    while len(order) < 5:
        loop.turn()
        assert len(loop.decoder.running) <= 2
        order += [i for i, one in enumerate(asked) if one.job.state != "waiting" and i not in order]
    assert order == sorted(order)
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)


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
        assert any(one.job.session and one.job.session.total.accepted for one in asked)


def test_what_comes_while_a_prompt_is_read_says_nothing_of_how_long_a_back_takes() -> None:
    """It need not have waited for anything, and nobody has answered for a minute perhaps."""
    told: list[bool | None] = []

    class Watched(Planner):
        def heard(self, now: float, back: str, found: Sequence[Place]) -> None:
            told.append(self._anew)
            super().heard(now, back, found)

    loop = Loop(1, Watched(CostCurve({1: 1.0, 8: 1.1}), Limits(draft_max=8, rows=32)))
    loop.ask(Asked([5, 6, 7], GREEDY, 4))
    forward = loop.engine.forward

    def meanwhile(rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        loop.guess(doubt=0.0)
        return forward(rows, chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.engine, "forward", meanwhile)
        loop.turn()
    assert told == [False]


def test_an_answer_that_fails_does_not_spoil_a_prompt_that_is_read_beside_it() -> None:
    loop = Loop(2)
    bad = loop.ask(talkative())
    loop.turn()
    other = loop.ask(Asked([4 + i % 8 for i in range(120)], GREEDY, 6))
    assert bad.job.session is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "verify", _breaks)
        loop.turn()
    assert bad.ended and "broken" in str(bad.error)
    loop.finish()
    assert other.error is None and other.tokens == other.expected


def _breaks(*args: object) -> Step:
    raise ZeroDivisionError("broken")


def reading_apart(slots: int) -> SlottedEngine:
    engine = SlottedEngine(MODEL, slots)
    engine.mixes = False
    return engine


def test_guesses_are_not_lost_while_a_prompt_is_read_apart() -> None:
    loop = Loop(2, VerifyAll(Limits(4, rows=32, rollback=CHAINS)), engine=reading_apart(2))
    first = loop.ask(talkative())
    loop.turn()
    other = loop.ask(Asked([4 + i % 8 for i in range(200)], GREEDY, 4))
    assert first.job.session is not None
    while other.job.state != "answering":
        before = first.job.session.total.accepted
        loop.guess(doubt=0.0)
        loop.turn()
        assert first.job.session.total.accepted > before
    loop.finish()
    assert first.tokens == first.expected and other.tokens == other.expected


def test_prompts_are_read_apart_where_passes_do_not_mix() -> None:
    loop = Loop(2, engine=reading_apart(2))
    asked = [loop.ask(Asked([5, 6, 7, 8], GREEDY, 6)), loop.ask(Asked([9, 6, 7, 8], GREEDY, 6))]
    loop.turn()
    assert loop.engine.widths == [set(), {0, 1}]
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)


def test_what_conversations_have_in_common_is_read_once() -> None:
    loop = Loop(3)
    system = [4 + i % 7 for i in range(60)]
    asked = [loop.ask(Asked([*system, 4 + i, 5, 6], GREEDY, 5)) for i in range(3)]
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)
    assert [one.job.cached_tokens for one in asked] == [0, 60, 60]
    assert loop.engine.read < 60 + 3 * 3
    assert loop.engine.shared == 120


def test_a_conversation_finds_its_slot_again() -> None:
    loop = Loop(2)
    first, other = loop.ask(Asked([9] * 30, GREEDY, 4)), loop.ask(Asked([8] * 30, GREEDY, 4))
    loop.finish()
    longer = loop.ask(Asked([9] * 30 + first.tokens + [7, 7], GREEDY, 4))
    loop.finish()
    assert longer.job.session is not None and first.job.session is not None and other.job.session is not None
    assert longer.job.session.slot == first.job.session.slot
    # The last token of an answer is never read.
    assert longer.job.cached_tokens == 30 + len(first.tokens) - 1
    assert loop.engine.shared == 0


def test_a_stranger_does_not_cost_a_long_conversation_its_cache() -> None:
    loop = Loop(2)
    long = loop.ask(Asked([9] * 100, GREEDY, 4))
    loop.finish()
    stranger = loop.ask(Asked([9] * 10 + [8] * 5, GREEDY, 4))
    loop.finish()
    assert stranger.job.session is not None and long.job.session is not None
    assert stranger.job.session.slot != long.job.session.slot
    assert stranger.job.cached_tokens == 10
    again = loop.ask(Asked([9] * 100 + long.tokens, GREEDY, 4))
    loop.finish()
    assert again.job.cached_tokens >= 100


def slots_of(loop: Loop, *prompts: Sequence[int]) -> list[int]:
    """Where they are answered, all at once."""
    asked = [loop.ask(Asked(prompt, GREEDY, 4)) for prompt in prompts]
    loop.turn()
    running = {id(job): slot for slot, job in loop.decoder.running}
    found = [running[id(one.job)] for one in asked]
    loop.finish()
    return found


@pytest.mark.parametrize(("neighbours", "slots"), [(False, [2, 0]), (True, [2, 1])])
def test_answers_lie_side_by_side_where_only_neighbours_share_a_pass(neighbours: bool, slots: list[int]) -> None:
    loop = Loop(4)
    loop.engine.neighbours = neighbours
    prompts = [[4 + slot] * 20 for slot in range(4)]
    assert slots_of(loop, *prompts) == [0, 1, 2, 3]
    # The third conversation goes on, and a stranger comes.
    assert slots_of(loop, [*prompts[2], 9], [11] * 30) == slots


def test_a_neighbour_that_was_just_used_keeps_its_cache() -> None:
    loop = Loop(4)
    loop.engine.neighbours = True
    prompts = [[4 + slot] * 20 for slot in range(4)]
    assert slots_of(loop, *prompts) == [0, 1, 2, 3]
    for slot in (2, 3, 1):
        assert slots_of(loop, prompts[slot]) == [slot]
    assert slots_of(loop, prompts[0], [11] * 30) == [0, 2], "the second has a conversation that may go on"


def test_a_long_prompt_does_not_hold_up_an_answer_in_progress() -> None:
    loop = Loop(2)
    quick = loop.ask(Asked([5], GREEDY, 12))
    loop.turn()
    before = len(quick.tokens)
    loop.ask(Asked([6] * 200, GREEDY, 4))
    while loop.decoder.running[0][1].state != "answering" or len(loop.engine.chunks) < 2:
        had = len(quick.tokens)
        loop.turn()
        assert quick.ended or len(quick.tokens) > had, "a token for each piece that is read"
        if quick.ended:
            break
    assert len(quick.tokens) > before
    assert max(length for _, length in loop.engine.chunks) <= max(CHUNK, loop.engine.batch)
    loop.finish()


def test_who_hangs_up_frees_the_slot_within_a_step() -> None:
    loop = Loop(1)
    given_up, next_one = loop.ask(Asked([5], GREEDY, 12)), loop.ask(Asked([6], GREEDY, 4))
    gone = loop.ask(Asked([7], GREEDY, 4))
    loop.turn()
    assert given_up.job.state == "answering" and next_one.job.state == "waiting"
    loop.decoder.cancel(gone.job)
    assert loop.decoder.waiting == 1
    loop.decoder.cancel(given_up.job)
    loop.turn()
    assert given_up.ended and next_one.job.state != "waiting"
    loop.finish()
    assert next_one.tokens == next_one.expected
    assert not gone.ended and not gone.tokens


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


def test_after_a_forward_pass_that_failed_the_next_questions_are_answered() -> None:
    loop = Loop(2)
    asked = [loop.ask(Asked([5, 6], GREEDY, 8)), loop.ask(Asked([7, 6], GREEDY, 8))]
    loop.turn()
    loop.engine.fault = ZeroDivisionError("broken")
    loop.turn()
    loop.engine.fault = None
    assert all(one.ended and "broken" in str(one.error) for one in asked)
    again = [loop.ask(Asked([5, 6], GREEDY, 8)), loop.ask(Asked([7, 6], GREEDY, 8))]
    loop.finish()
    assert all(one.tokens == one.expected for one in again)


def test_backs_that_say_much_hold_up_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no time for is heard later, and all are heard alike, whoever else is there and silent."""
    monkeypatch.setattr(decoder, "LEAST_HEARING", 0.0)
    loop = Loop(1)
    asked = loop.ask(Asked([5], GREEDY, 6))
    box = loop.decoder.inbox
    for back in ("one", "silent", "also silent", "two"):
        box.put(Message(back, 0.0, []))
    list(box.take())
    for number in range(30):
        for back in ("one", "two"):
            box.put(Message(back, float(number), [(1, [])]))
    loop.turn()
    left = [(message.back, message.came) for message in box.take()]
    assert 60 - 2 * 2 <= len(left) < 60, "one a time, and twice in a step"
    assert sorted(left[-2:]) == [("one", 29.0), ("two", 29.0)]
    assert abs(sum(back == "one" for back, _ in left) - len(left) / 2) <= 0.5
    loop.finish()
    assert asked.tokens == asked.expected


def test_a_long_message_is_heard_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "LEAST_HEARING", 0.0)
    loop = Loop(1)
    asked = loop.ask(talkative())
    loop.turn()
    (entry,) = loop.ledger.values()
    prefix = entry.prefix
    one = Expansion(len(prefix), prefix.hash, [5], [0.9])
    other = Expansion(len(prefix), prefix.hash, [6], [0.1])
    loop.decoder.inbox.put(Message("back", 0.0, [(entry.session, [one, other])]))
    loop.decoder._take_guesses()
    session = loop.decoder._answering[0].session
    assert set(session.tree.root.children) == {5}
    loop.finish()
    assert asked.tokens == asked.expected


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


def test_when_it_stops_all_who_wait_are_told() -> None:
    """Whoever is told may take back what it has asked."""
    loop = Loop(1)
    waiting = [loop.ask(Asked([5], GREEDY, 6)) for _ in range(20)]
    tell = waiting[0].job.on_end

    def told(error: DuoError | None) -> None:
        tell(error)
        loop.decoder.cancel(waiting[-1].job)

    waiting[0].job.on_end = told
    loop.decoder._stopping = True
    loop.decoder._loop()
    late = loop.ask(Asked([5], GREEDY, 6))
    assert all(isinstance(one.error, StoppedError) for one in [*waiting, late])


def test_guesses_for_other_sessions_do_no_harm() -> None:
    loop = Loop(2)
    asked = loop.ask(Asked([5], GREEDY, 6))
    loop.decoder.inbox.put(Message("back", 0.0, [(12345, [])]))
    loop.decoder.inbox.put(Message("back", 0.0, [(99, [Expansion(1, 1, [5], [0.5])]), (98, [])]))
    loop.finish()
    assert asked.tokens == asked.expected
