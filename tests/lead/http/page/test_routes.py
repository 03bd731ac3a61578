"""The page at `/` in Chromium, against the HTTP side with scripted answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import requests
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from bench.harness import browser
from duo.errors import DuoError
from lead.api import BackView, Piece, SlotView
from tests.support.http import PATIENCE, AnswerGate, ScriptedAnswerer
from tests.support.locked import locked

KEY = "a-secret-key"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def test_nothing_but_its_own_files(url: str) -> None:
    """The policy lets nothing else in, and the page itself holds no script and no style."""
    page = requests.get(url, timeout=PATIENCE)
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'") and "unsafe" not in policy
    for forbidden in ("http://", "https://", "style=", "onclick", "<style"):
        assert forbidden not in page.text
    for path, kind in (("page.js", "text/javascript"), ("markdown.js", "text/javascript"), ("page.css", "text/css")):
        file = requests.get(f"{url}/static/{path}", timeout=PATIENCE)
        assert (file.status_code, file.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        for forbidden in ("http://", "https://", "innerHTML", "insertAdjacentHTML", "document.write"):
            assert forbidden not in file.text
    assert requests.get(f"{url}/static/../page.py", timeout=PATIENCE).status_code == 404


class Page:
    """The page in a browser, and a person who waits until something shows."""

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    def open(self, url: str) -> None:
        self.chrome.get(url)
        self.chrome.execute_script("sessionStorage.clear(); localStorage.clear()")
        self.chrome.get(url)

    def __getitem__(self, name: str) -> WebElement:
        return self.chrome.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """The text as it stands in the document."""
        found: list[str] = self.chrome.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector
        )
        return found

    def until(self, condition: Callable[[], object], what: str) -> None:
        waiting = WebDriverWait(
            self.chrome, PATIENCE, poll_frequency=0.02, ignored_exceptions=[StaleElementReferenceException]
        )
        waiting.until(lambda _: condition(), f"{what}; the page: {self.texts('body')}")

    def ask(self, question: str) -> None:
        self["question"].send_keys(question + Keys.ENTER)

    def answered(self, count: int = 1) -> None:
        self.until(lambda: len(self.all(".figures")) == count, f"{count} answers")


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    if browser.programs() is None:
        pytest.skip(f"no Chromium here: {browser.INSTALL}")
    with browser.chromium() as chrome:
        yield chrome


@pytest.fixture
def page(chrome: Chrome, url: str, answerer: ScriptedAnswerer) -> Page:
    page = Page(chrome)
    page.open(url)
    page.until(lambda: page["model"].text == answerer.model, "the model's name")
    return page


def test_text_streams_and_guesses_are_coloured(page: Page, url: str, answerer: ScriptedAnswerer) -> None:
    gate = AnswerGate()
    answerer.script = [
        ("A ", Piece("list", ("attic",)), ":\n\n"),
        gate,
        ("- **bold**\n- `code", Piece("`", ("cellar",))),
    ]
    page.chrome.execute_script(
        "for (const [id, value] of [['system', 'Be brief.'], ['temperature', '0.25'], ['seed', '7']])"
        " document.getElementById(id).value = value"
    )
    page.ask("one")
    page.until(lambda: page.texts("article.assistant") == ["A list:"], "the first words")
    guessed = page.all("article .guessed")
    assert [(span.text, span.get_attribute("title")) for span in guessed] == [("list", "guessed by attic")]
    coloured = guessed[0].value_of_css_property("color")
    assert coloured != page["status"].value_of_css_property("color")
    page["colour"].click()
    assert page.all("article .guessed")[0].value_of_css_property("color") != coloured
    assert page["stop"].is_displayed() and not page["send"].is_displayed()
    gate.open()
    page.answered()
    assert page.texts("article li") == ["bold", "code"]
    assert page.texts("article strong") == ["bold"] and page.texts("article code") == ["code"]
    assert page.texts(".figures") == ["6 tokens · 3.0 tokens/s · 3 of 5 guesses accepted"]
    asked = answerer.next_asked()
    assert list(asked.messages) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    assert (asked.question.sampling.temperature, asked.question.sampling.seed) == (0.25, 7)
    # The conversation goes on, can be asked for again, and can be forgotten.
    page.ask("two")
    page.answered(2)
    assert [turn["role"] for turn in answerer.next_asked().messages] == ["system", "user", "assistant", "user"]
    page["retry"].click()
    page.until(lambda: len(page.all(".figures")) == 2 and page["send"].is_displayed(), "the second answer again")
    assert [turn["content"] for turn in answerer.next_asked().messages][-1] == "two"
    page["new"].click()
    assert page["empty"].is_displayed() and not page.all("article")
    page.ask("three")
    page.answered()
    assert len(answerer.next_asked().messages) == 2
    # Nothing was asked of anyone else.
    loaded = page.chrome.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(loaded) > 5 and {urlsplit(name).netloc for name in loaded} == {urlsplit(url).netloc}
    assert page.chrome.get_log("browser") == []


def test_stop(page: Page, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Once upon",), AnswerGate()]
    page.ask("a story")
    page.until(lambda: page.texts("article.assistant") == ["Once upon"], "the first words")
    page["stop"].click()
    page.until(lambda: page["status"].text == "stopped", "the end")
    assert answerer.next_asked().cancelled.wait(PATIENCE)
    answerer.script = [("The end",)]
    page.ask("go on")
    page.answered()
    # What had been said is part of the conversation.
    assert [turn["content"] for turn in answerer.next_asked().messages] == ["a story", "Once upon", "go on"]


def test_what_is_said_is_text_and_nothing_else(page: Page, answerer: ScriptedAnswerer) -> None:
    answerer.script = [(HOSTILE, Piece(HOSTILE, (HOSTILE,)), f"\n```{HOSTILE}\n{HOSTILE}\n```\n- {HOSTILE}")]
    answerer.views = [BackView(HOSTILE, HOSTILE, "silent", None, 0, 0)]
    page.ask(HOSTILE)
    page.answered()
    page.until(lambda: page.texts("#backs td")[:1] == [HOSTILE], "the back")
    assert page.chrome.title == "duo"
    assert not page.all("article img, article script, aside img, aside script")
    assert "".join(page.texts("article.user")) == HOSTILE
    assert page.texts("article pre code") == [HOSTILE + "\n"]


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


def test_an_answer_that_fails_can_be_asked_for_again(page: Page, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), DuoError("the engine lost its context")]
    page.ask("one")
    page.until(lambda: page["status"].text == "the engine lost its context", "the error")
    page.until(lambda: page["question"].get_attribute("value") == "one", "the question, to be put again")
    assert not page.all("article")
    answerer.next_asked()
    answerer.script = [("Hello",)]
    page["send"].click()
    page.answered()
    assert list(answerer.next_asked().messages) == [{"role": "user", "content": "one"}]


def test_a_retry_without_an_answer_leaves_the_old_one(page: Page, answerer: ScriptedAnswerer) -> None:
    """The lead refuses it, or it stops before its first word."""
    page.ask("one")
    page.answered()
    before = page.texts("article")
    answerer.next_asked()
    set_temperature = "document.getElementById('temperature').value = arguments[0]"
    page.chrome.execute_script(set_temperature, "200")
    page["retry"].click()
    page.until(lambda: page["status"].get_attribute("class") == "bad", "the error")
    assert "temperature is 200" in page["status"].text
    page.until(lambda: page.texts("article") == before, "the old answer")
    assert not page["empty"].is_displayed() and not page["question"].get_attribute("value")
    page.chrome.execute_script(set_temperature, "")
    answerer.script = [AnswerGate()]
    page["retry"].click()
    answerer.next_asked()
    page["stop"].click()
    page.until(lambda: page["status"].text == "stopped" and page.texts("article") == before, "the old answer")
    answerer.script = [("fine",)]
    page.ask("two")
    page.answered(2)
    assert [turn["content"] for turn in answerer.next_asked().messages] == ["one", "Hello, world!", "two"]


def test_light_dark_and_small(page: Page) -> None:
    def ground() -> str:
        return page.chrome.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")

    before = ground()
    page["theme"].click()
    after = ground()
    assert after != before
    page.chrome.refresh()
    assert ground() == after
    size = page.chrome.get_window_size()
    try:
        page.chrome.set_window_size(500, 800)
        wide = page.chrome.execute_script(
            "return [...document.querySelectorAll('body *')].filter((node) => !node.closest('.wide, .unseen') &&"
            " node.getBoundingClientRect().right > innerWidth).map((node) => node.outerHTML)"
        )
        assert wide == []
    finally:
        page.chrome.set_window_size(size["width"], size["height"])
    unnamed = "return [...document.querySelectorAll('textarea, input')].filter((node) => !node.labels.length).length"
    assert page.chrome.execute_script(unnamed) == 0


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
        assert page.chrome.execute_script("return JSON.stringify(localStorage)") == "{}"
