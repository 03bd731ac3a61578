"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:  # else at use: `make unit` runs without transformers
    from tests.support.http import ScriptedAnswerer

# A shell starts what runs in its background with Ctrl-C ignored, and programs started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, and no test depends on how fast the machine is. HYPOTHESIS_PROFILE=random looks further.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts real programs first, then other files with slow tests: at the end, no process waits for a long file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name != "programs"))


@pytest.fixture(scope="session", autouse=True)
def _nobodys_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs under test keep their secrets here, and not with those of the person who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def users_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for a user's settings: a new one for this test."""
    folder = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, ScriptedAnswerer]]:
    """The HTTP side with scripted answers, on a real server."""
    from tests.support.http import ScriptedAnswerer, serving

    answerer = ScriptedAnswerer()
    with serving(answerer) as url:
        yield url, answerer


@pytest.fixture
def url(served: tuple[str, ScriptedAnswerer]) -> str:
    return served[0]


@pytest.fixture
def answerer(served: tuple[str, ScriptedAnswerer]) -> ScriptedAnswerer:
    """As new for each test; the server is the same for all of them."""
    vars(served[1]).update(vars(type(served[1])()))
    return served[1]
