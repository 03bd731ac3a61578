"""Targets are loaded with the same bits where they can be had and are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from duo.engines.base import Engine
from duo.engines.exact import decision, price
from duo.engines.exact.engine import ExactEngine
from duo.errors import ModelError
from tests.support.width_engine import WidthEngine, apart


@pytest.mark.parametrize("reason", ["it runs on a GPU", ""])
def test_the_same_bits_that_cannot_be_had_are_refused_in_a_line(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    count = iter(range(10**6))
    changing = WidthEngine(lambda mine, total, index: next(count), lambda at, length: 0, inexact=reason)
    for _ in range(2):  # found, and remembered
        with pytest.raises(ModelError) as raised:
            decision.load_target(
                lambda chains, trial: cast(Engine, changing), decision.ExactOptions("on", 15, 32, 1), []
            )
        assert "\n" not in str(raised.value) and "--exact" in str(raised.value)
        assert (reason or "different bits") in str(raised.value)


@pytest.mark.usefixtures("widest")
@pytest.mark.parametrize("mode", ["on", "auto"])
def test_what_was_found_once_is_known_before_the_model_is_loaded(
    mode: decision.Mode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(price, "MIN_SPEED_SHARE", 0.0 if mode == "on" else 2.0)
    loads: list[tuple[bool, bool]] = []
    engines: list[WidthEngine] = []

    def load(chains: bool, trial: bool) -> Engine:
        loads.append((chains, trial))
        engines.append(apart(1, 32, covers_prompts=True))
        return cast(Engine, engines[-1])

    asked = decision.ExactOptions(mode, 15, 32, 1)
    first, again = (decision.load_target(load, asked, ["a model"]) for _ in range(2))
    assert loads == [(True, True), (mode == "on", False)]
    assert (again.line, again.on, again.seconds) == (first.line, first.on, first.seconds)
    assert isinstance(again.engine, ExactEngine) == (mode == "on") and first.guesses
    assert engines[0].passes and not engines[1].passes, "nothing is measured again"


@pytest.mark.usefixtures("widest")
def test_a_class_is_taken_from_another_start_without_what_is_not_steady(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unsteady: list[int] = []

    def load(chains: bool, trial: bool) -> Engine:
        engine: Any = apart(1, 32, covers_prompts=True)
        engine.unsteady = tuple(unsteady)
        return cast(Engine, engine)

    found = []
    for unsteady in ([], [1]):  # noqa: B007
        served = decision.load_target(load, decision.ExactOptions("on", 15, 32, 1), [])
        assert isinstance(served.engine, ExactEngine)
        found.append(served.engine.widths)
    assert found == [(1, 32, 1, True), (2, 32, 1, True)]
