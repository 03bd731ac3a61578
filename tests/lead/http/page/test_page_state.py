"""The state of the lead beside the chat: backs, slots, whether backs help, and how other machines join."""

from __future__ import annotations

from typing import Any

import pytest

from bench.harness.scripted_lead import TIMINGS, ScriptedLead
from lead.api import BackView, SlotView
from tests.support.http import ScriptedAnswerer
from tests.support.page import Page

pytestmark = pytest.mark.slow  # a browser

SAYS = "resting: 19.6 tokens/s without backs, 18.9 with them; next trial in 180 tokens"
RESTS = {
    "times": 0.96, "error": 0.02, "with_backs": 18.9, "alone": 19.6, "state": "resting", "trial_in_tokens": 180,
    "says": SAYS,
}  # fmt: skip
HELPS = {
    "times": 2.1, "error": 0.08, "with_backs": 41.2, "alone": 19.6, "state": "with", "trial_in_tokens": None,
    "says": "2.10 x: 41.2 tokens/s with backs, 19.6 without them",
}  # fmt: skip


def back(name: str, state: str, accepted: int = 0) -> dict[str, Any]:
    counts = {"drafted": 2 * accepted, "accepted": accepted}
    return {"name": name, "model": "m", "state": state, "round_trip_ms": 1.25, **counts}


def test_backs_and_slots(page: Page, answerer: ScriptedAnswerer) -> None:
    assert page["no-backs"].is_displayed()
    answerer.views = [
        BackView("attic", "tiny-1m", "drafting", 1.25, 40, 30),
        BackView("b", "m", "silent", None, 0, 0),
    ]
    answerer.slot_views = [SlotView(0, "answering", 20, 20, 7, 12.34), SlotView(1, "reading", 900, 256)]
    page.until(lambda: len(page.all("#backs tbody tr")) == 2 and len(page.all("#slots .busy")) == 2, "the tables")
    assert page.texts("#backs td") == ["attic", "drafting", "40", "75 %", "1.3 ms", "b", "silent", "0", "-", "-"]
    assert page.texts("#slots td") == ["0", "answering", "20", "7", "12.3", "1", "reading", "256 of 900", "-", "-"]
    assert not page["no-backs"].is_displayed()


def test_the_speedup_is_said_after_an_answer_and_beside_it(scene: Page, scripted: ScriptedLead) -> None:
    scripted.states["/backs"] = {"data": [back("attic", "drafting", 30)], "speedup": HELPS}
    scripted.timings = {**TIMINGS, "speedup": {"times": 2.14, "error": 0.13}}
    scene.until(lambda: scene["speedup"].text == "2.1 x with backs (± 0.08)", "the figure")
    assert scene["says"].text == HELPS["says"]
    scene.ask("one")
    scene.answered()
    assert scene.texts(".figures") == ["2.1 x with backs (± 0.1) · 3.0 tokens/s · 6 tokens · 3 of 5 guesses accepted"]
    scripted.timings = TIMINGS
    scene.ask("two")
    scene.answered(2)
    assert scene.texts(".figures")[1] == "3.0 tokens/s · 6 tokens · 3 of 5 guesses accepted"


def test_backs_that_rest_say_why(scene: Page, scripted: ScriptedLead) -> None:
    scripted.states["/backs"] = {"data": [back("attic", "resting")], "speedup": RESTS}
    scene.until(lambda: scene["speedup"].text == "resting", "the state")
    assert scene["says"].text == SAYS
    assert scene.texts("#backs td")[:2] == ["attic", "resting"]
    assert len(scene.all("svg .resting")) == 1
    scripted.states["/backs"] = {"data": []}
    scene.until(lambda: scene["speedup"].text == "Nothing is known yet.", "a lead that says nothing of it")
    assert not scene["says"].is_displayed()


def test_the_picture_says_in_words_what_it_shows(scene: Page, scripted: ScriptedLead) -> None:
    scripted.states["/backs"] = {"data": [back("attic", "drafting", 30)], "speedup": HELPS}
    picture = "return document.querySelector('svg[role=img]')?.getAttribute('aria-label')"
    scene.until(lambda: "attic" in (scene.script(picture) or ""), "the picture")
    scripted.states["/backs"] = {"data": [back("attic", "drafting", 47)], "speedup": HELPS}
    scene.until(lambda: "17 guesses accepted" in scene.script(picture), "what was accepted since")
    assert scene.script(picture) == (
        "The last 5 minutes. 41.2 tokens per second with backs, 19.6 without; attic: drafting, 17 guesses accepted."
    )
    assert scene.all("svg .accepted") and scene.all("svg .drafting")


def test_the_last_minutes_in_bins(scene: Page) -> None:
    found = scene.module(
        """
        const { BINS, Speeds } = await import("/static/js/speeds.js");
        const speeds = new Speeds();
        const back = (state, accepted) => ({ name: "attic", state, drafted: 0, accepted });
        const say = (second, backs, speedup = null) => speeds.push(second * 1000, { data: backs, speedup });
        say(0, [back("drafting", 1)]);                                         // too old
        say(300, [back("drafting", 10)], { with_backs: 8, alone: 4 });
        say(301, [back("drafting", 14)], { with_backs: 9, alone: 4 });
        say(320, [back("resting", 15)]);
        say(599, [back("drafting", 3)]);                                       // it came again
        say(600, [], null);
        const { withBacks, alone, backs } = speeds.bins(600_000);
        const filled = (values) => values.flatMap((value, i) => (value === null ? [] : [[i, value]]));
        const each = backs.map((back) => [back.name, filled(back.states), filled(back.accepted)]);
        return [BINS, filled(withBacks), filled(alone), each];
        """
    )
    states = [[0, "drafting"], [4, "resting"], [59, "drafting"]]
    assert found == [60, [[0, 9]], [[0, 4]], [["attic", states, [[0, 4], [4, 1], [59, 3]]]]]


def test_commands_for_other_machines_only_where_the_lead_has_some(scene: Page, scripted: ScriptedLead) -> None:
    scene.until(scene["no-backs"].is_displayed, "the state")
    assert not scene["join"].is_displayed()
    back_line = "python -m back --lead 192.168.1.20:5556 --token TOKEN"
    chat_line = "python chat.py http://192.168.1.20:5555 --api-key KEY"
    scripted.states["/join"] = {"back": back_line, "chat": chat_line}
    scene.chrome.refresh()
    scene.until(lambda: scene.texts("#join code") == [back_line, chat_line], "the commands")
    where = "The secrets for KEY and TOKEN are on the lead's terminal"
    assert where in scene["join"].text
    scripted.states["/join"] = {"back": "python -m back --lead lead:5556", "chat": chat_line.partition(" --api")[0]}
    scene.chrome.refresh()
    scene.until(lambda: "lead:5556" in scene["join"].text, "the commands of a lead that asks for none")
    assert where not in scene["join"].text


def test_a_lead_without_slots_or_settings_is_shown(scene: Page, scripted: ScriptedLead) -> None:
    for path in ("/slots", "/props", "/join"):
        del scripted.states[path]
    scripted.states["/backs"] = {"data": [back("attic", "waiting")], "speedup": None}
    scene.until(lambda: scene.texts("#backs td")[:2] == ["attic", "waiting"], "the backs")
    assert scene["model"].text == "scripted-13m" and not scene.texts("#slots td")


def test_a_model_that_loads_and_a_lead_that_is_gone(scene: Page, scripted: ScriptedLead) -> None:
    scene.chrome.execute_cdp_cmd("Network.enable", {})
    scene.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/health"]})
    try:
        scene.until(lambda: scene["model"].text == "no connection to the lead", "that it is gone")
    finally:
        scene.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    scene.until(lambda: scene["model"].text == "scripted-13m", "that it is back")
