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

MINUTES = 5
HASTE = 30
"""How much faster time goes on the page, so that minutes of history take seconds."""
TABLE = """Both sort with the same algorithm. They differ in what they take and what they give:

| call | takes | gives | keeps the input |
|---|---|---|:-:|
| `sorted(data)` | any iterable | a **new** list | yes |
| `data.sort()` | a list | `None` | no |

```python
data = [3, 1, 2]
print(sorted(data), data)   # [1, 2, 3] [3, 1, 2]
data.sort(key=lambda n: -n)
```
"""
TIMEIT = json.dumps({"statement": "sorted(data)", "setup": "data = list(range(10**6))", "number": 10})
SAYS = "resting: 19.6 tokens/s without backs, 18.9 with them; next trial in 180 tokens"
TOOLS = [{"type": "function", "function": {"name": "timeit", "parameters": {"type": "object"}}}]


def _hurried(haste: int) -> str:
    """Script for a page whose clock and timers run faster."""
    return (
        f"const start = Date.now(), real = Date.now.bind(Date), wait = setTimeout.bind(window);"
        f"Date.now = () => start + {haste} * (real() - start);"
        f"window.setTimeout = (act, ms, ...rest) => wait(act, ms / {haste}, ...rest);"
    )


def _guessed(text: str) -> list[tuple[str, str]]:
    """The text in words, of which a back had guessed many."""
    words = text.split(" ")
    return [(word + " " * (i < len(words) - 1), "attic" if i % 5 not in (0, 3) else "") for i, word in enumerate(words)]


def _answer(text: str) -> Sequence[Mapping[str, Any]]:
    return [{"content": text, "accepted": _guessed(text)}]


def _timings(times: float | None, speed: float, tokens: int, drafted: int, accepted: int) -> Mapping[str, Any]:
    speedup = None if times is None else {"times": times, "error": 0.08}
    figures = {"predicted_n": tokens, "predicted_per_second": speed, "draft_n": drafted, "draft_n_accepted": accepted}
    return {**figures, "speedup": speedup}


def _backs(minute: float) -> Mapping[str, Any]:
    """What GET /backs says: the back helps for three minutes, and then the talk turns to what it does not know."""
    helps = minute < 3
    rests = minute > 3.6
    ripple = 2 * ((minute * 7) % 1)
    with_backs = 39 + ripple if helps else max(18.9, 39 - 34 * (minute - 3))
    accepted = int(min(minute, 3) * 700 + max(0.0, min(minute, 3.6) - 3) * 150)
    back = {
        "name": "attic", "model": "draft-1m", "state": "resting" if rests else "drafting", "round_trip_ms": 1.3,
        "drafted": int(accepted * 1.3) + 90, "accepted": accepted,
    }  # fmt: skip
    speeds = {"times": with_backs / 19.6, "error": 0.08, "with_backs": with_backs, "alone": 19.6 - ripple / 4}
    state = ("resting", 180, SAYS) if rests else ("with", None, "")
    speedup = {**speeds, **dict(zip(("state", "trial_in_tokens", "says"), state, strict=True))}
    return {"data": [back], "speedup": speedup}


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
    lead.scripts = [_answer("Use `copytree(src, dst)` of shutil.")]
    lead.timings = _timings(2.0, 40.2, 12, 10, 8)
    visitor.ask("How do I copy a folder?")
    chrome.find_element(By.ID, "new").click()
    thought = [{"reasoning_content": "They differ in place, type and result. A table says it best."}]
    lead.scripts = [[*thought, *_answer(TABLE)]]
    lead.timings = _timings(2.1, 41.2, 118, 96, 74)
    visitor.ask("What is the difference between sort and sorted?")
    visitor.write("functions", json.dumps(TOOLS))
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "timeit", "arguments": TIMEIT}}
    lead.scripts = [[{"tool_calls": [call]}]]
    lead.timings = _timings(None, 19.4, 41, 0, 0)
    visitor.ask("And how long does sorted take for a million numbers?")


def picture(file: Path) -> None:
    """Takes it. Raises RuntimeError without Chromium."""
    lead = ScriptedLead()
    lead.states["/v1/models"] = {"object": "list", "data": [{"id": "target-13m"}]}
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
