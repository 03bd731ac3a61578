"""The example with Gradio, in a browser."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from bench.harness import browser
from bench.harness.processes import ROOT, free_port, wait_for
from lead.http.errors import ModelUnavailableError
from tests.support.http import ScriptedAnswerer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.programs() is None, reason=f"no Chromium here: {browser.INSTALL}"),
]


@contextmanager
def chat_at(lead: str) -> Iterator[str]:
    """The example on a lead. Yields the address of its page."""
    port = free_port()
    command = [sys.executable, "examples/gradio_chat.py", f"{lead}/v1", "--port", str(port)]
    offline = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **offline}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            page = f"http://127.0.0.1:{port}"

            def up() -> bool:
                assert process.poll() is None, process.stdout and process.stdout.read().decode()
                try:
                    return requests.get(page, timeout=10).ok
                except requests.ConnectionError:
                    return False

            wait_for(up, "the page of the example")
            yield page
        finally:
            process.terminate()


def places(chrome: Chrome) -> list[WebElement]:
    """Where one can write by now."""
    return [box for box in chrome.find_elements(By.TAG_NAME, "textarea") if box.is_displayed() and box.is_enabled()]


def ask(chrome: Chrome, question: str) -> None:
    wait_for(lambda: bool(places(chrome)), "a place to write")
    places(chrome)[0].send_keys(question, Keys.ENTER)


@pytest.mark.parametrize(
    ("speedup", "said"),
    [
        ({"times": 2.14, "error": 0.13}, "2.1 x with backs, 3.0 tokens/s"),
        ({"times": None}, "3.0 tokens/s"),
        (None, "3.0 tokens/s"),
    ],
)
def test_what_stands_below_an_answer(speedup: dict[str, float] | None, said: str) -> None:
    figures = runpy.run_path(str(ROOT / "examples" / "gradio_chat.py"))["figures"]
    assert figures({"predicted_per_second": 3.0, "speedup": speedup}) == said


def test_a_question_and_one_that_follows(url: str, answerer: ScriptedAnswerer) -> None:
    with chat_at(url) as page, browser.chromium() as chrome:
        chrome.get(page)

        def shows(words: str, times: int = 1) -> None:
            wait_for(lambda: chrome.find_element(By.TAG_NAME, "body").text.count(words) == times, f"{words!r}, {times}")

        ask(chrome, "First?")
        shows("Hello, world!")
        shows("tokens/s")
        answerer.asked.get(timeout=10)
        ask(chrome, "Second?")
        shows("Hello, world!", 2)
        said = answerer.asked.get(timeout=10).messages
        assert [(each["role"], each["content"]) for each in said] == [
            ("user", "First?"),
            ("assistant", "Hello, world!"),
            ("user", "Second?"),
        ]
        answerer.refusal = ModelUnavailableError("the model went away")
        ask(chrome, "Third?")
        shows("the model went away")
