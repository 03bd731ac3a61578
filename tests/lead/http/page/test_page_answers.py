"""Questions and answers on the page, against the HTTP side with scripted answers."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from duo.errors import DuoError
from lead.api import BackView, Piece
from tests.support.http import PATIENCE, AnswerGate, ScriptedAnswerer
from tests.support.page import Page

pytestmark = pytest.mark.slow  # a browser

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def set_field(page: Page, name: str, value: str) -> None:
    """As if it were typed."""
    change = "const [name, value] = arguments, node = document.getElementById(name); node.value = value;"
    page.script(f"{change} node.dispatchEvent(new Event('input', {{bubbles: true}}))", name, value)


def test_text_streams_and_guesses_are_coloured(page: Page, url: str, answerer: ScriptedAnswerer) -> None:
    gate = AnswerGate()
    answerer.script = [
        ("A ", Piece("list", ("attic",)), ":\n\n"),
        gate,
        ("- **bold**\n- `code", Piece("`", ("cellar",))),
    ]
    for name, value in (("system", "Be brief."), ("temperature", "0.25"), ("seed", "7"), ("max_tokens", "50")):
        set_field(page, name, value)
    page.ask("one")
    page.until(lambda: page.answers() == ["A list:\n\n"], "the first words")
    guessed = page.all("article .guessed")
    assert [(span.text, span.get_attribute("title")) for span in guessed] == [("list", "guessed by attic")]
    coloured = guessed[0].value_of_css_property("color")
    assert coloured != page["status"].value_of_css_property("color")
    page["colour"].click()
    assert page.all("article .guessed")[0].value_of_css_property("color") != coloured
    assert page["stop"].is_displayed() and not page["send"].is_displayed()
    assert page.all("article.assistant")[0].get_attribute("aria-busy") == "true"
    gate.open()
    page.answered()
    assert page.texts("article li") == ["- **bold**", "- `code`"]
    assert page.texts("article strong") == ["**bold**"] and page.texts("article code") == ["`code`"]
    assert page.texts(".figures") == ["2.1 x with backs (± 0.1) · 3.0 tokens/s · 6 tokens · 3 of 5 guesses accepted"]
    asked = answerer.next_asked()
    assert list(asked.messages) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    assert (asked.question.sampling.temperature, asked.question.sampling.seed) == (0.25, 7)
    assert asked.question.max_tokens == 50
    # The conversation goes on, can be asked for again, and another can begin.
    page.ask("two")
    page.answered(2)
    assert [turn["role"] for turn in answerer.next_asked().messages] == ["system", "user", "assistant", "user"]
    page.press("article.assistant .actions", "retry")
    page.until(lambda: "2 of 2" in page.texts(".versions span"), "the second answer again")
    assert [turn["content"] for turn in answerer.next_asked().messages][-1] == "two"
    page["new"].click()
    assert page["empty"].is_displayed() and not page.all("article")
    page.ask("three")
    page.answered()
    assert len(answerer.next_asked().messages) == 2
    # Nothing was asked of anyone else.
    loaded = page.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(loaded) > 5 and {urlsplit(name).netloc for name in loaded} == {urlsplit(url).netloc}
    complaints = page.chrome.get_log("browser")
    assert [entry for entry in complaints if "/join" not in entry["message"]] == []


def test_stop(page: Page, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Once upon",), AnswerGate()]
    page.ask("a story")
    page.until(lambda: page.answers() == ["Once upon"], "the first words")
    page["stop"].click()
    page.until(lambda: page["status"].text == "stopped", "the end")
    assert answerer.next_asked().cancelled.wait(PATIENCE)
    answerer.script = [("The end",)]
    page.ask("go on")
    page.answered(2)
    # What had been said is part of the conversation.
    assert [turn["content"] for turn in answerer.next_asked().messages] == ["a story", "Once upon", "go on"]


def test_what_is_said_is_text_and_nothing_else(page: Page, answerer: ScriptedAnswerer) -> None:
    said = f"{HOSTILE}{HOSTILE}\n```{HOSTILE}\n{HOSTILE}\n```\n- {HOSTILE}\n\n[a](javascript:alert(1))"
    answerer.script = [(HOSTILE, Piece(HOSTILE, (HOSTILE,)), said.removeprefix(HOSTILE * 2))]
    answerer.views = [BackView(HOSTILE, HOSTILE, "silent", None, 0, 0)]
    page.ask(HOSTILE)
    page.answered()
    page.until(lambda: page.texts("#backs td")[:1] == [HOSTILE], "the back")
    assert page.chrome.title == "duo"
    assert not page.all("article img, article script, aside img, aside script, article a, nav img")
    assert page.texts("article.user .words") == [HOSTILE]
    assert page.answers() == [said]


def test_an_answer_that_fails_can_be_asked_for_again(page: Page, answerer: ScriptedAnswerer) -> None:
    answerer.script = [DuoError("the engine lost its context")]
    page.ask("one")
    page.until(lambda: page["status"].text == "the engine lost its context", "the error")
    assert page.texts("article.user .words") == ["one"] and not page.answers()
    answerer.next_asked()
    answerer.script = [("Hello",)]
    page.press("article.user .actions", "retry")
    page.answered()
    assert list(answerer.next_asked().messages) == [{"role": "user", "content": "one"}]


def test_a_part_of_an_answer_is_kept_when_the_rest_fails(page: Page, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), DuoError("the engine lost its context")]
    page.ask("one")
    page.answered()
    assert page.answers() == ["Hel"]
    assert page.texts(".figures") == ["broke off: the engine lost its context"]


def test_a_retry_without_an_answer_leaves_the_old_one(page: Page, answerer: ScriptedAnswerer) -> None:
    """The lead refuses it, or it stops before its first word."""
    page.ask("one")
    page.answered()
    before = page.answers()
    answerer.next_asked()
    set_field(page, "temperature", "200")
    page.press("article.assistant .actions", "retry")
    page.until(lambda: page["status"].get_attribute("class") == "bad", "the error")
    assert "temperature is 200" in page["status"].text
    page.until(lambda: page.answers() == before, "the old answer")
    assert not page["empty"].is_displayed() and not page["question"].get_attribute("value")
    set_field(page, "temperature", "")
    answerer.script = [AnswerGate()]
    page.press("article.assistant .actions", "retry")
    answerer.next_asked()
    page["stop"].click()
    page.until(lambda: page["status"].text == "stopped" and page.answers() == before, "the old answer")
    answerer.script = [("fine",)]
    page.ask("two")
    page.answered(2)
    assert [turn["content"] for turn in answerer.next_asked().messages] == ["one", "Hello, world!", "two"]


def test_a_lead_that_is_gone_is_named(page: Page) -> None:
    page.chrome.execute_cdp_cmd("Network.enable", {})
    page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/v1/chat/completions"]})
    try:
        page["question"].send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.SHIFT, "two", Keys.ENTER)
        page.until(lambda: page["status"].text == "no connection to the lead: is it still running?", "the error")
    finally:
        page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    assert page.texts("article.user .words") == ["one\ntwo"]
