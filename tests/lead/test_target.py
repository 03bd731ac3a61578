"""What is said of a target at the start: lines that do not contradict each other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from duo.engines.base import TREES, Rollback
from duo.engines.exact import decision
from lead.plan.limits import Limits
from lead.target import start_lines

CHATS: Any = SimpleNamespace(chat_template="{{ messages }}")
FIT, STATE = "4 slots of 512 tokens", "a copy is made before guesses are verified"
ENGINE: Any = SimpleNamespace(name="mamba", note=f"{FIT}; {STATE}", context_note=FIT, sampling={}, vocabulary=CHATS)
ATTENTION: Any = SimpleNamespace(name="llama", note=FIT, sampling={}, vocabulary=CHATS)


@pytest.mark.parametrize(
    ("engine", "guesses", "draft_max", "reason", "lines"),
    [
        (ENGINE, True, 8, "", [f"{FIT}; {STATE}", "exact off"]),
        (ENGINE, True, 0, "it does not pay", [FIT, "exact off", "mamba is served without guesses: it does not pay"]),
        (ENGINE, True, 0, "", [FIT, "exact off"]),
        (ATTENTION, False, 0, "its memory does not go back", [FIT, "exact off"]),
        (ATTENTION, True, 8, "", [FIT, "exact off"]),
    ],
)
def test_lines_at_the_start(engine: Any, guesses: bool, draft_max: int, reason: str, lines: list[str]) -> None:
    served = decision.LoadedTarget(engine, {1: 1.0}, False, "exact off", None, guesses)
    limits = Limits(draft_max, rollback=TREES if engine is ATTENTION else Rollback(False, 8, replay=True))
    assert list(start_lines(served, limits, reason)) == lines


def test_what_the_makers_suggest_is_said() -> None:
    engine: Any = SimpleNamespace(name="qwen", note="", sampling={"temperature": 0.6, "top_k": 20}, vocabulary=CHATS)
    served = decision.LoadedTarget(engine, {1: 1.0}, False, "exact off", None, True)
    (line, _) = start_lines(served, Limits(8), "")
    assert line.startswith("qwen is sampled as its makers suggest")
    assert line.endswith("temperature 0.6, top_k 20")


def test_a_base_model_is_called_one() -> None:
    plain: Any = SimpleNamespace(chat_template="")
    engine: Any = SimpleNamespace(name="gemma-3-270m", note="", sampling={}, vocabulary=plain)
    served = decision.LoadedTarget(engine, {1: 1.0}, False, "exact off", None, True)
    line, _ = start_lines(served, Limits(8), "")
    assert line.startswith("gemma-3-270m has no chat template") and "instruct model" in line
