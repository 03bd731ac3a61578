"""Where chat.py keeps its history in tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chat import ENVIRONMENT


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the chat keeps its history: not in the home of whoever runs the tests."""
    monkeypatch.setitem(ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"
