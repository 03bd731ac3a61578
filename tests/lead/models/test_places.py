"""Which model a back drafts for."""

from __future__ import annotations

from lead.models.places import MOVE_AFTER, Place, better, choose


def place(name: str, known: bool = True, busy: bool = False, backs: int = 0, used: float = 0.0) -> Place:
    return Place(name, known, busy, backs, used)


def test_a_new_back_goes_where_it_is_of_use() -> None:
    assert choose([]) is None
    assert choose([place("idle", used=9), place("busy", busy=True)]) == "busy"
    assert choose([place("full", busy=True, backs=2), place("alone", busy=True)]) == "alone"
    assert choose([place("old", used=1), place("new", used=2)]) == "new"


def test_a_vocabulary_that_has_to_be_tried_comes_last() -> None:
    assert choose([place("try", known=False, busy=True), place("sure")]) == "sure"
    assert choose([place("try", known=False)]) == "try"


def test_a_back_leaves_a_model_that_nobody_asks() -> None:
    idle, busy = place("idle", backs=1, used=10), place("busy", busy=True)
    assert better(idle, [idle, busy], 10 + MOVE_AFTER / 2) is None, "it may be asked again at once"
    assert better(idle, [idle, busy], 10 + MOVE_AFTER) == "busy"
    assert better(idle, [idle, place("other")], 100) is None
    assert better(idle, [idle, place("strange", known=False, busy=True)], 100) is None


def test_two_busy_models_share_their_backs() -> None:
    here = place("here", busy=True, backs=2)
    assert better(here, [here, place("there", busy=True)], 0) == "there"
    assert better(here, [here, place("there", busy=True, backs=1)], 0) is None
