"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.http import ScriptedAnswerer, serving

# A shell starts what runs in its background with Ctrl-C ignored, and programs started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, ScriptedAnswerer]]:
    """The HTTP side with scripted answers, on a real server."""
    answerer = ScriptedAnswerer()
    with serving(answerer) as url:
        yield url, answerer


@pytest.fixture
def url(served: tuple[str, ScriptedAnswerer]) -> str:
    return served[0]


@pytest.fixture
def answerer(served: tuple[str, ScriptedAnswerer]) -> ScriptedAnswerer:
    """As new for each test; the server is the same for all of them."""
    vars(served[1]).update(vars(ScriptedAnswerer()))
    return served[1]
