"""The page at `/` in a browser, and a person who waits until something shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.http import PATIENCE


class Page:
    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    def open(self, url: str) -> None:
        """As in a browser that never was there before."""
        self.chrome.get(f"{url}/static/icon.svg")  # no page that writes meanwhile
        self.script("sessionStorage.clear(); localStorage.clear()")
        self.chrome.execute_async_script(
            "const ended = arguments[0], gone = indexedDB.deleteDatabase('duo');"
            "gone.onsuccess = gone.onerror = gone.onblocked = () => ended()"
        )
        self.chrome.get_log("browser")  # of pages before
        self.chrome.get(url)

    def __getitem__(self, name: str) -> WebElement:
        return self.chrome.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def script(self, script: str, *given: object) -> Any:
        return self.chrome.execute_script(script, *given)

    def module(self, script: str, *given: object) -> Any:
        """The value of an asynchronous function with this body. `given` has what it is given."""
        wrapped = (
            "const ended = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);"
            f"(async () => {{ {script} }})().then((value) => ended([value]), (error) => ended(String(error)))"
        )
        answer = self.chrome.execute_async_script(wrapped, *given)
        assert isinstance(answer, list), answer
        return answer[0]

    def texts(self, selector: str) -> list[str]:
        """The text as it stands in the document."""
        found: list[str] = self.script(
            "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector
        )
        return found

    def answers(self) -> list[str]:
        return self.texts("article.assistant .words")

    def until(self, condition: Callable[[], object], what: str) -> None:
        waiting = WebDriverWait(
            self.chrome, PATIENCE, poll_frequency=0.02, ignored_exceptions=[StaleElementReferenceException]
        )
        waiting.until(lambda _: condition(), f"{what}; the page: {self.texts('body')}")

    def ask(self, question: str) -> None:
        self["question"].send_keys(question + Keys.ENTER)

    def answered(self, count: int = 1) -> None:
        """Waits until so many answers are shown, and all are complete."""
        self.until(lambda: len(self.all("article.assistant .actions")) == count, f"{count} answers")

    def ready(self) -> None:
        """Waits until the first answer could be asked for."""
        self.until(lambda: self.texts("#model") != ["connecting"], "what the lead says of its models")

    def press(self, selector: str, name: str) -> None:
        """The button of this name in the last element that is selected."""
        found = [node for node in self.all(selector)[-1].find_elements(By.TAG_NAME, "button") if node.text == name]
        assert len(found) == 1, f"{len(found)} buttons {name!r} in {selector}"
        found[0].click()

    def keys(self, *keys: str) -> None:
        """Typed wherever the focus is."""
        ActionChains(self.chrome).send_keys(*keys).perform()

    def tab_to(self, name: str) -> None:
        """Goes on with Tab until what has this text or label has the focus."""
        label = "const node = document.activeElement; return node.getAttribute('aria-label') ?? node.textContent.trim()"
        seen: list[str] = []
        for _ in range(60):
            self.keys(Keys.TAB)
            seen.append(self.script(label))
            if seen[-1] == name or self.script("return document.activeElement.id") == name:
                return
        raise AssertionError(f"Tab does not reach {name!r}, but {seen}")

    def resize(self, width: int, height: int = 844) -> None:
        """0: back to the window's own size."""
        if not width:
            self.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            return
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
