"""The measurement of what each API adds to a stream."""

from __future__ import annotations

from bench.steps.writers import MAKERS, measure
from tests.support.http import vocabulary


def test_every_api_writes_its_answer() -> None:
    for tools in (False, True):
        found = measure(vocabulary(), 2, tools)
        assert found.keys() == MAKERS.keys()
        assert all(token > 0 and around > 0 for token, around in found.values())
