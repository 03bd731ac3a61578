"""Many answers in one decode loop: each is what it would be alone, whoever comes and goes meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.engines.base import TREES, Rollback
from duo.engines.replay import Checkpoints, Replay
from duo.errors import DuoError, StoppedError
from duo.sampling.params import SamplingParams
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.speculation import Speculation
from lead.plan.verify_all import VerifyAll
from tests.support.fakes import SIZE
from tests.support.loop import FLAT, GREEDY, MODEL, STEEP, Asked, Fixed, Loop, talkative
from tests.support.slotted import CHAINS, EOS, FORWARD, REPLAY, SlottedEngine


def test_backs_hear_of_all_tokens_that_end_an_answer() -> None:
    plain = talkative()
    stop = next(token for token in plain.expected[3:] if token not in plain.expected[:3])
    stopped = Asked(plain.request.prompt, GREEDY, 40, stop_tokens=(stop,))
    assert stopped.expected == plain.expected[: plain.expected.index(stop) + 1]
    free = Asked(plain.request.prompt, GREEDY, 40)
    free.request.ignore_eos = True
    loop = Loop(2)
    for asked in (stopped, free):
        loop.ask(asked)
    loop.turn()
    assert [entry.ends for entry in loop.ledger.values()] == [sorted({EOS, stop}), []]
    for _ in range(40):
        loop.guess()
        loop.turn()
    assert stopped.ended and stopped.tokens == stopped.expected
    assert stopped.request.session.finish_reason == "stop"


def test_what_is_to_be_done_between_steps() -> None:
    loop = Loop(1)
    asked = loop.ask(talkative())
    loop.turn()
    done = loop.decoder.call(lambda: len(asked.tokens))
    failed = loop.decoder.call(lambda: 1 // 0)
    assert not done.done()
    before = len(asked.tokens)
    loop.turn()
    assert done.result(0) == before and isinstance(failed.exception(0), ZeroDivisionError)
    loop.finish()
    loop.decoder.start(lambda: None, lambda: None)
    assert loop.decoder.call(lambda: 5).result(10) == 5
    loop.decoder.stop()
    with pytest.raises(StoppedError):
        loop.decoder.call(lambda: 5).result(0)


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

    schedules: dict[str, Speculation] = {
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
        cached = one.request.cached_tokens
        assert one.request.read_tokens == len(one.request.prompt) - 1 and 0 <= cached < len(one.request.prompt)
    assert not loop.ledger
    reused = sum(one.request.cached_tokens for one in asked)
    as_rows = sum(len(one.request.prompt) - 1 for one in asked if one.request.prompt_logprobs is not None)
    read = sum(length for _, length in engine.chunks)
    assert read + reused + as_rows == sum(one.request.read_tokens for one in asked), "what is told is what was reused"


@pytest.mark.parametrize("everything", [False, True])
def test_a_model_that_does_not_go_back_is_served_without_guesses(everything: bool) -> None:
    limits = Limits(draft_max=8, rows=32, rollback=FORWARD)
    schedule: Speculation = VerifyAll(limits) if everything else Planner(Fixed(FLAT), limits)
    loop = Loop(2, schedule, engine=SlottedEngine(MODEL, 2, FORWARD, 16))
    asked = [loop.ask(talkative()) for _ in range(2)]
    loop.turn()
    assert not schedule.speculates and not loop.ledger, "no back is told of anything"
    loop.finish()
    assert all(one.tokens == one.expected for one in asked) and not loop.engine.dropped


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
        order += [i for i, one in enumerate(asked) if one.request.status != "waiting" and i not in order]
    assert order == sorted(order)
    loop.finish()
    assert all(one.tokens == one.expected for one in asked)


def test_who_hangs_up_frees_the_slot_within_a_step() -> None:
    loop = Loop(1)
    given_up, next_one = loop.ask(Asked([5], GREEDY, 12)), loop.ask(Asked([6], GREEDY, 4))
    gone = loop.ask(Asked([7], GREEDY, 4))
    loop.turn()
    assert given_up.request.status == "answering" and next_one.request.status == "waiting"
    loop.decoder.cancel(gone.request)
    assert loop.decoder.waiting == 1
    loop.decoder.cancel(given_up.request)
    loop.turn()
    assert given_up.ended and next_one.request.status != "waiting"
    loop.finish()
    assert next_one.tokens == next_one.expected
    assert not gone.ended and not gone.tokens


def test_when_it_stops_all_who_wait_are_told() -> None:
    """Whoever is told may take back what it has asked."""
    loop = Loop(1)
    waiting = [loop.ask(Asked([5], GREEDY, 6)) for _ in range(20)]
    tell = waiting[0].request.on_end

    def told(error: DuoError | None) -> None:
        tell(error)
        loop.decoder.cancel(waiting[-1].request)

    waiting[0].request.on_end = told
    loop.decoder.stop()
    loop.decoder.run()
    late = loop.ask(Asked([5], GREEDY, 6))
    assert all(isinstance(one.error, StoppedError) for one in [*waiting, late])
