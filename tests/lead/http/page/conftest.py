"""A browser, and the page of a lead in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from bench.harness import browser
from bench.harness.scripted_lead import ScriptedLead, serving
from tests.support.http import PATIENCE, ScriptedAnswerer
from tests.support.page import Page


@pytest.fixture(scope="session")
def chrome() -> Iterator[Chrome]:
    """One for all modules, because it takes seconds to start. Each test opens its page as if it never was there."""
    if browser.programs() is None:
        pytest.skip(f"no Chromium here: {browser.INSTALL}")
    with browser.chromium() as chrome:
        chrome.set_script_timeout(PATIENCE)
        yield chrome


@pytest.fixture
def page(chrome: Chrome, url: str, answerer: ScriptedAnswerer) -> Page:
    """On the HTTP side with scripted answers."""
    page = Page(chrome)
    page.open(url)
    page.until(lambda: page["model"].text == answerer.model, "the model's name")
    return page


@pytest.fixture(scope="module")
def _scripted_url() -> Iterator[tuple[ScriptedLead, str]]:
    lead = ScriptedLead()
    with serving(lead) as url:
        yield lead, url


@pytest.fixture
def scripted(_scripted_url: tuple[ScriptedLead, str]) -> ScriptedLead:
    """As new for each test. It says what the test wants, whatever a lead could say."""
    lead, _ = _scripted_url
    vars(lead).update(vars(ScriptedLead()))
    return lead


@pytest.fixture
def scene(chrome: Chrome, scripted: ScriptedLead, _scripted_url: tuple[ScriptedLead, str]) -> Iterator[Page]:
    """On the scripted lead."""
    page = Page(chrome)
    page.open(_scripted_url[1])
    page.ready()
    yield page
    page.resize(0)
