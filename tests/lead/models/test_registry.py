"""Which models are loaded and which go, in simulated time. A load takes 10 seconds, and an end half a second."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead.models.registry import HOLD_OFF
from tests.support.models_world import World, world

NEVER = float("inf")


def happened(it: World) -> list[tuple[str, str]]:
    return [(what, name) for _, what, name in it.log]


def test_a_model_is_loaded_when_it_is_asked_for() -> None:
    it = world(a=0, b=0)
    first, second = it.ask("a", at=3), it.ask("a", at=20)
    it.run()
    assert (first.served, second.served) == (13, 20)
    assert happened(it) == [("start", "a")]
    assert it.registry.entries["b"].status == "unloaded"


def test_requests_that_come_during_the_load_wait_for_the_same_one() -> None:
    it = world(a=0)
    asked = [it.ask("a", at=when) for when in (0, 1, 9)]
    it.run()
    assert [one.served for one in asked] == [10, 10, 10]
    assert happened(it) == [("start", "a")]


def test_it_is_put_away_after_its_ttl_and_comes_back() -> None:
    it = world(a=30)
    it.ask("a", at=0, takes=5)
    again = it.ask("a", at=50)
    it.run()
    assert again.served == 60
    # The ttl counts from the end of the answer.
    assert it.log == [(0, "start", "a"), (45, "stop", "a"), (50, "start", "a"), (91, "stop", "a")]


def test_a_request_that_comes_while_a_model_ends_gets_a_new_process() -> None:
    it = world(a=30)
    it.ask("a", at=0, takes=0)
    late = it.ask("a", at=40.2)
    it.run(until=60)
    assert late.served == pytest.approx(50.5)


def test_a_model_without_ttl_stays() -> None:
    it = world(a=0)
    it.ask("a", at=0)
    it.run(until=1e6)
    assert it.registry.entries["a"].status == "loaded"


def test_the_idle_model_that_was_used_longest_ago_makes_room() -> None:
    it = world(most=2, a=0, b=0, c=0)
    for name, when in (("a", 0), ("b", 20), ("a", 40), ("c", 60)):
        it.ask(name, at=when)
    it.run()
    assert happened(it) == [("start", "a"), ("start", "b"), ("stop", "b"), ("start", "c")]


def test_a_busy_model_ends_its_answers_before_it_goes() -> None:
    it = world(a=0, b=0)
    long, other = it.ask("a", at=0, takes=100), it.ask("b", at=20)
    it.run()
    assert long.ended == 110
    assert other.served == 110.5 + 10


def test_a_model_that_is_always_busy_does_not_keep_others_out() -> None:
    """Its later requests wait behind the one for the other model."""
    it = world(a=0, b=0)
    for when in range(60):
        it.ask("a", at=when, takes=5)
    other = it.ask("b", at=30, takes=1)
    it.run()
    assert other.served is not None and other.served < 30 + 5 + 0.5 + 10 + 1
    assert all(one.served is not None for one in it.asked)
    assert happened(it) == [("start", "a"), ("stop", "a"), ("start", "b"), ("stop", "b"), ("start", "a")]


def test_a_model_need_not_go_when_the_other_client_has_left() -> None:
    it = world(a=0, b=0)
    it.ask("a", at=0, takes=50)
    it.ask("b", at=20, patience=5)
    behind = it.ask("a", at=22)
    it.run()
    assert behind.served == 25
    assert happened(it) == [("start", "a")]


def test_a_load_that_nobody_waits_for_gives_way() -> None:
    it = world(a=0, b=0)
    it.ask("a", at=0, patience=2)
    other = it.ask("b", at=4)
    it.run()
    assert other.served == 4.5 + 10
    assert happened(it) == [("start", "a"), ("stop", "a"), ("start", "b")]


def test_a_load_goes_on_without_its_client_if_nobody_needs_the_place() -> None:
    it = world(a=0)
    it.ask("a", at=0, patience=2)
    again = it.ask("a", at=8)
    it.run()
    assert again.served == 10


def test_a_load_that_fails_says_why_and_holds_off() -> None:
    it = world(a=0, b=0)
    it.fails["a"] = 1
    first, soon, later = it.ask("a", at=0), it.ask("a", at=12), it.ask("a", at=11 + HOLD_OFF)
    other = it.ask("b", at=5)
    it.run()
    assert (first.ended, first.refused) == (10, "it does not fit")
    assert (soon.ended, soon.refused) == (12, "it does not fit"), "it is not tried again so soon"
    assert later.served is not None
    assert other.served == 20, "the other one is served"
    assert it.registry.entries["a"].reason == ""


@pytest.mark.parametrize("when", [5, 30])
def test_killed_during_the_load_or_later_it_is_loaded_anew(when: float) -> None:
    it = world(a=0)
    first = it.ask("a", at=0)
    it.run(until=when)
    it.crash("a")
    assert bool(first.refused) == (when == 5)
    assert "SIGKILL" in it.registry.entries["a"].reason
    again = it.ask("a", at=when + 0.1)
    it.run()
    assert again.served == pytest.approx(when + 10.1)


def test_a_load_that_takes_too_long_is_given_up() -> None:
    it = world(load_seconds=60, a=0, b=0)
    it.loads = {"a": NEVER, "b": 10.0}
    asked, other = it.ask("a", at=0), it.ask("b", at=1)
    it.run()
    assert asked.ended == 60 and "60 seconds" in asked.refused
    assert other.served == 70.5


def test_models_that_are_wanted_are_loaded_without_a_request() -> None:
    it = world(most=2, a=0, b=0, c=0)
    it.registry.want("a")
    it.registry.want("c")
    it.step()
    it.run()
    assert happened(it) == [("start", "a"), ("start", "c")]


def test_put_away_by_hand_after_the_answers_under_way() -> None:
    it = world(a=0)
    asked = it.ask("a", at=0, takes=20)
    it.run(until=15)
    it.registry.put_away("a")
    it.step()
    behind = it.ask("a", at=16)
    it.run()
    assert asked.ended == 30
    assert behind.served == 30.5 + 10


def test_put_away_by_hand_in_the_middle_of_a_load() -> None:
    it = world(a=0)
    asked = it.ask("a", at=0)
    it.run(until=5)
    it.registry.put_away("a")
    it.step()
    it.run()
    assert asked.refused and asked.ended == 5
    assert happened(it) == [("start", "a"), ("stop", "a")]


REQUESTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.floats(0, 20), st.sampled_from([NEVER, NEVER, 3.0])),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(
    REQUESTS,
    st.integers(1, 3),
    st.sampled_from([0.0, 5.0]),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 150)), max_size=4),
)
def test_everybody_is_served_or_told_why(
    requests: list[tuple[str, float, float, float]], most: int, ttl: float, crashes: list[tuple[str, float]]
) -> None:
    it = world(most=most, a=ttl, b=ttl, c=0)
    for model, at, takes, patience in requests:
        it.ask(model, at, takes, patience)

    def crash(name: str) -> None:
        if it.registry.entries[name].status in ("loading", "loaded"):
            it.crash(name)

    for name, at in crashes:
        it.at(at, lambda name=name: crash(name))  # type: ignore[misc]
    it.run(until=5000)
    for asked in it.asked:
        assert asked.ended is not None, "somebody waits for ever"
        assert asked.served is not None or asked.refused or asked.patience == 3.0
        # All that may come before it: each request's answer, and a change of models for each.
        assert asked.ended - asked.came <= (len(requests) + len(crashes) + 1) * (10 + 0.5 + 20)
    assert all(entry.active == 0 for entry in it.registry.entries.values())
