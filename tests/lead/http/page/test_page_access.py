"""Who can use the page: by keyboard, with a screen reader, on a small screen, in the dark, with a key."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from bench.harness import axe
from bench.harness.real import UnavailableError
from bench.harness.scripted_lead import ScriptedLead
from tests.support.http import ScriptedAnswerer
from tests.support.locked import locked
from tests.support.page import Page

pytestmark = pytest.mark.slow  # a browser

KEY = "a-secret-key"
TEXT = """# Title

Some **bold** and `code`, a [link](http://a.b), ~~no~~.

1. one
   - two
2. three

> a quote
> - with a list

| a | b |
|---|--:|
| 1 | 2 |

```python
def f(x: int) -> str:  # why
    return "text" + str(2.5)
```

<div>HTML</div>

---
"""
CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}


@pytest.fixture(scope="module")
def checker() -> str:
    try:
        return axe.script()
    except UnavailableError as error:
        pytest.skip(str(error))


def furnish(page: Page, scripted: ScriptedLead) -> None:
    """Lets the page show all that it has."""
    attic = {"name": "attic", "model": "m", "state": "drafting", "round_trip_ms": 1.2, "drafted": 40, "accepted": 30}
    speedup = {"times": 0.9, "error": 0.1, "with_backs": 9.0, "alone": 10.0, "state": "resting", "says": "resting: why"}
    slot = {
        "id": 0, "state": "reading", "prompt_tokens": 900, "prompt_read": 256, "completion_tokens": 0,
        "tokens_per_second": 0,
    }  # fmt: skip
    scripted.states["/backs"] = {"data": [attic, {**attic, "name": "b", "state": "resting"}], "speedup": speedup}
    scripted.states["/slots"] = [slot]
    scripted.states["/join"] = {"back": "python -m back --lead 192.168.1.20:5556", "chat": "python chat.py"}
    page.chrome.refresh()
    page.ready()
    page.ask("another")
    page.answered()
    page["new"].click()
    guessed = [[TEXT[:30], ""], [TEXT[30:400], "attic"], [TEXT[400:], ""]]
    scripted.scripts = [[{"content": "first"}], [{"reasoning_content": "hm"}, {"content": TEXT, "accepted": guessed}]]
    page.ask("all of it")
    page.answered()
    page.press("article.assistant .actions", "retry")
    page.until(lambda: page.texts(".versions span") == ["2 of 2"], "the second version")
    scripted.scripts = [[{"tool_calls": [CALL]}]]
    page.ask("the weather")
    page.answered(2)
    page.script("for (const node of document.querySelectorAll('details')) node.open = true")
    page.until(lambda: page.all("svg .drafting"), "the picture")


def faults(page: Page, checker: str) -> list[str]:
    """Serious faults, each with the first element that has it."""
    page.script(checker)
    found = page.module("return await axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{it['id']}: {it['help']}: {it['nodes'][0]['html']} ({it['nodes'][0]['failureSummary']})"
        for it in found["violations"]
        if it["impact"] in ("serious", "critical")
    ]


@pytest.fixture
def furnished(scene: Page, scripted: ScriptedLead) -> Page:
    furnish(scene, scripted)
    return scene


def test_no_serious_fault_in_both_themes_and_sizes(furnished: Page, checker: str) -> None:
    for width in (1280, 390):
        furnished.resize(width)
        for column in ("", "show-list", "show-state") if width == 390 else ("",):
            if column:
                furnished[column].click()
            for _ in range(2):
                theme = furnished.script("return document.documentElement.dataset.theme")
                assert faults(furnished, checker) == [], f"{width} {column} {theme}"
                furnished["theme"].click()


def test_no_serious_fault_while_a_key_is_asked_for(chrome: Chrome, checker: str) -> None:
    with locked(ScriptedAnswerer(), KEY) as url:
        page = Page(chrome)
        page.open(url)
        page.until(page["key-form"].is_displayed, "the question for a key")
        page["key"].send_keys("ä" + Keys.ENTER)
        page.until(lambda: page["key-error"].text, "the refusal")
        assert faults(page, checker) == []


def test_by_keyboard_alone(scene: Page, scripted: ScriptedLead) -> None:
    """Ask, stop, retry, edit, settings, another conversation. The pointer is not used."""
    scripted.pause = 0.05
    scripted.script = [{"content": "word "}] * 2000
    scene.until(lambda: scene.script("return document.activeElement.id") == "question", "the focus")
    scene.keys("a story", Keys.ENTER)
    scene.until(lambda: any("word" in one for one in scene.answers()), "the first words")
    scene.tab_to("stop")
    scene.keys(Keys.ENTER)
    scene.until(lambda: scene["status"].text == "stopped", "the end")
    assert scene.script("return document.activeElement.id") == "question"
    # Escape stops wherever the focus is.
    scene.keys("more", Keys.ENTER)
    scene.until(lambda: len(scene.answers()) == 2 and "word" in scene.answers()[-1], "the first words")
    scene.keys(Keys.ESCAPE)
    scene.until(lambda: scene["status"].text == "stopped", "the end")
    scripted.pause, scripted.script = 0.0, [{"content": "The end."}]
    scene["messages"].send_keys("")  # a person would go there with Shift and Tab
    scene.tab_to("retry")
    scene.keys(Keys.SPACE)
    scene.until(lambda: scene.answers()[0] == "The end.", "the first answer again")
    scene.tab_to("settings")
    scene.keys(Keys.ENTER)
    scene.tab_to("temperature")
    scene.keys("0.5")
    assert scene["temperature"].get_attribute("value") == "0.5"
    scene["show-list"].send_keys("")
    scene.tab_to("new conversation")
    scene.keys(Keys.ENTER)
    assert not scene.answers() and scene.script("return document.activeElement.id") == "question"
    scene.keys("another", Keys.ENTER)
    scene.answered()
    assert scripted.asked[-1]["temperature"] == 0.5
    scene["messages"].send_keys("")
    scene.tab_to("edit")
    scene.keys(Keys.ENTER)
    assert scene.script("return document.activeElement.value") == "another"
    scene.keys(" one", Keys.ESCAPE)
    assert scene.texts("article.user .words") == ["another"]
    assert scene.script("return document.activeElement.textContent") == "copy"
    scene["show-list"].send_keys("")
    scene.tab_to("a story")
    scene.keys(Keys.ENTER)
    scene.until(lambda: scene.texts("article.user .words")[0] == "a story", "the first conversation")


def test_a_small_screen_shows_one_thing_at_a_time(furnished: Page) -> None:
    furnished.resize(390)
    furnished.until(lambda: not furnished["list"].is_displayed(), "the chat alone")
    for name in ("show-list", "show-state"):
        furnished[name].click()
        assert furnished[name].get_attribute("aria-expanded") == "true"
        wide = furnished.script(
            "return [...document.querySelectorAll('body *')].filter((node) => !node.closest('.wide, .unseen, pre') &&"
            " node.getBoundingClientRect().right > innerWidth).map((node) => node.outerHTML)"
        )
        assert wide == []
    assert not furnished["list"].is_displayed() and furnished["state"].is_displayed()
    furnished["show-state"].click()
    assert furnished["messages"].is_displayed() and not furnished["state"].is_displayed()
    assert furnished.script("return document.documentElement.scrollWidth") == 390
    furnished["show-list"].click()
    furnished["new"].click()
    assert not furnished["list"].is_displayed() and furnished["question"].is_displayed()


def test_light_and_dark_stay(scene: Page) -> None:
    def ground() -> str:
        return scene.chrome.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")

    before = ground()
    scene["theme"].click()
    after = ground()
    assert after != before
    scene.chrome.refresh()
    assert ground() == after


def test_api_key(chrome: Chrome) -> None:
    answerer = ScriptedAnswerer()
    with locked(answerer, KEY) as url:
        page = Page(chrome)
        page.open(url)
        page.until(page["key-form"].is_displayed, "the question for a key")
        page["key"].send_keys("wrong" + Keys.ENTER)
        page.until(lambda: page["key-error"].text == "The lead does not take this key.", "the refusal")
        page["key"].send_keys(KEY + Keys.ENTER)
        page.until(lambda: page["model"].text == answerer.model, "the model's name")
        assert not page["key-form"].is_displayed()
        page.ask("one")
        page.answered()
        # Kept for this tab, and nowhere else.
        page.chrome.refresh()
        page.until(lambda: page["model"].text == answerer.model, "the model's name")
        assert page.script("return JSON.stringify(localStorage)") == "{}"
        stored = 'return JSON.stringify(await (await (await import("idb")).openDB("duo", 1)).getAll("conversations"))'
        assert KEY not in page.module(stored)
