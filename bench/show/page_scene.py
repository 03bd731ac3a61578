"""The scene of docs/page.png: the page itself, and a lead whose words are scripted.

Two conversations, thinking, a table, code, a call of a tool, and a back that helped and then rests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from bench.harness.browser import chromium
from bench.harness.processes import PATIENCE
from bench.harness.scripted_lead import ScriptedLead, serving
from bench.show import scene

MINUTES = 5
HELPS, RESTS = 3.0, 3.6
"""Until when the back helps, and from when on it rests, in minutes."""
HASTE = 30
"""How much faster time goes on the page, so that minutes of history take seconds."""
TOOLS = [{"type": "function", "function": {"name": scene.TOOL, "parameters": {"type": "object"}}}]


def _hurried(haste: int) -> str:
    """Script for a page whose clock and timers run faster."""
    return (
        f"const start = Date.now(), real = Date.now.bind(Date), wait = setTimeout.bind(window);"
        f"Date.now = () => start + {haste} * (real() - start);"
        f"window.setTimeout = (act, ms, ...rest) => wait(act, ms / {haste}, ...rest);"
    )


def _answer(text: str) -> Sequence[Mapping[str, Any]]:
    return [{"content": text, "accepted": scene.guessed(text)}]


def timings(times: float | None, speed: float, tokens: int, drafted: int, accepted: int) -> Mapping[str, Any]:
    known = None if times is None else {"times": times, "error": scene.ERROR}
    figures = {"predicted_n": tokens, "predicted_per_second": speed, "draft_n": drafted, "draft_n_accepted": accepted}
    return {**figures, "speedup": known}


def _speed(minute: float) -> float:
    """Tokens per second: the back helps for three minutes, and then the talk turns to what it does not know."""
    ripple = 2 * ((minute * 7) % 1)
    return 39 + ripple if minute < HELPS else max(18.9, 39 - 34 * (minute - HELPS))


def speedup(minute: float) -> Mapping[str, Any]:
    """What GET /backs says of all backs."""
    alone = 19.6 - ((minute * 7) % 1) / 2
    speeds = {"times": _speed(minute) / 19.6, "error": scene.ERROR, "with_backs": _speed(minute), "alone": alone}
    state = ("resting", 180, scene.RESTING.says) if minute > RESTS else ("with", None, "")
    return {**speeds, **dict(zip(("state", "trial_in_tokens", "says"), state, strict=True))}


def back(minute: float) -> Mapping[str, Any]:
    """What GET /backs says of the back."""
    accepted = int(min(minute, HELPS) * 700 + max(0.0, min(minute, RESTS) - HELPS) * 150)
    return {
        "name": scene.BACK, "model": scene.DRAFT, "state": "resting" if minute > RESTS else "drafting",
        "round_trip_ms": 1.3, "drafted": int(accepted * 1.3) + 90, "accepted": accepted,
    }  # fmt: skip


def _backs(minute: float) -> Mapping[str, Any]:
    return {"data": [back(minute)], "speedup": speedup(minute)}


def _minutes() -> Iterator[float]:
    """Of the page's clock, as they pass."""
    start = time.monotonic()
    while (minute := HASTE * (time.monotonic() - start) / 60) < MINUTES:
        yield minute
        time.sleep(0.02)


class _Visitor:
    def __init__(self, chrome: Chrome) -> None:
        self._chrome = chrome

    def ask(self, question: str) -> None:
        """Asks, and waits for the whole answer."""
        answers = len(self._answers())
        self._chrome.find_element(By.ID, "question").send_keys(question + Keys.ENTER)
        WebDriverWait(self._chrome, PATIENCE).until(lambda _: len(self._answers()) > answers)

    def _answers(self) -> list[Any]:
        return self._chrome.find_elements(By.CSS_SELECTOR, "article.assistant .actions")

    def write(self, name: str, text: str) -> None:
        change = "const [name, text] = arguments, node = document.getElementById(name); node.value = text;"
        self._chrome.execute_script(f"{change} node.dispatchEvent(new Event('input', {{bubbles: true}}))", name, text)


def _talk(lead: ScriptedLead, chrome: Chrome) -> None:
    visitor = _Visitor(chrome)
    lead.scripts = [_answer(scene.COPY[1])]
    lead.timings = timings(2.0, 40.2, 12, 10, 8)
    visitor.ask(scene.COPY[0])
    chrome.find_element(By.ID, "new").click()
    thought = [{"reasoning_content": scene.THOUGHTS}]
    lead.scripts = [[*thought, *_answer(scene.TABLE + scene.CODE)]]
    lead.timings = timings(scene.TIMES, 41.2, 118, 96, 74)
    visitor.ask(scene.DIFFERENCE)
    visitor.write("functions", json.dumps(TOOLS))
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": scene.TOOL, "arguments": scene.ARGUMENTS}}
    lead.scripts = [[{"tool_calls": [call]}]]
    lead.timings = timings(None, 19.4, 41, 0, 0)
    visitor.ask(scene.HOW_LONG)


def picture(file: Path) -> None:
    """Takes it. Raises RuntimeError without Chromium."""
    lead = ScriptedLead()
    lead.states["/v1/models"] = {"object": "list", "data": [{"id": scene.MODEL}]}
    slot = {"id": 0, "state": "idle", "prompt_tokens": 0, "completion_tokens": 0, "tokens_per_second": 0}
    lead.states["/slots"] = [slot]
    lead.states["/backs"] = _backs(0)
    with serving(lead) as url, chromium(1320, 1080) as chrome:
        chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _hurried(HASTE)})
        chrome.get(url)
        _talk(lead, chrome)
        for minute in _minutes():
            lead.states["/backs"] = _backs(minute)
        WebDriverWait(chrome, PATIENCE).until(lambda page: page.find_element(By.ID, "speedup").text == "resting")
        chrome.save_screenshot(str(file))
