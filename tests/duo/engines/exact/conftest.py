"""Fixtures for the tests of `--exact`."""

from __future__ import annotations

import pytest

from duo.engines.exact import search


@pytest.fixture
def widest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class of the most widths is tried first, for times of the fake's passes say nothing."""
    monkeypatch.setattr(search, "score", lambda seconds, widths: widths.widest - widths.narrowest)
