"""From a wish to think to variables of a template and a limit."""

from __future__ import annotations

from typing import Any, cast

import pytest

from duo.engines import Vocabulary
from duo.errors import RequestError
from lead.chat.conversation import UNLIMITED, Thinking
from lead.chat.thinking import ThinkingVariables, decided, limited


@pytest.mark.parametrize(
    ("asked", "budget", "outcome"),
    [
        (Thinking(), None, Thinking()),
        (Thinking(), 9, Thinking(budget=9)),
        (Thinking(), 0, Thinking(False, budget=0)),
        (Thinking(True), 0, Thinking(True)),
        (Thinking(True), 9, Thinking(True, budget=9)),
        (Thinking(False), 9, Thinking(False, budget=0)),
        (Thinking(False), None, Thinking(False, budget=0)),
        (Thinking(effort="low"), 9, Thinking(effort="low", budget=9)),
        (Thinking(budget=5), 9, Thinking(budget=5)),
        (Thinking(budget=5), 0, Thinking(budget=5)),
        (Thinking(budget=0), 9, Thinking(False, budget=0)),
        (Thinking(budget=UNLIMITED), 9, Thinking(budget=UNLIMITED)),
    ],
)
def test_the_request_comes_before_the_lead(asked: Thinking, budget: int | None, outcome: Thinking) -> None:
    assert decided(asked, budget) == outcome


def test_what_is_a_limit() -> None:
    assert [limited(Thinking(budget=budget)) for budget in (None, UNLIMITED, 0, 7)] == [False, False, True, True]


class _Model:
    """A vocabulary whose template takes some words for the effort."""

    def __init__(self, *efforts: str) -> None:
        self._efforts = efforts
        self.tried: list[str] = []

    def render(self, messages: Any, tools: Any = (), variables: Any = None) -> str:
        self.tried.append(variables["reasoning_effort"])
        if variables["reasoning_effort"] not in self._efforts:
            raise RequestError("the model's chat template refuses: no such effort")
        return "prompt"


def variables(template: str, thinking: Thinking, *efforts: str) -> dict[str, Any]:
    return dict(ThinkingVariables(template).of(thinking, cast(Vocabulary, _Model(*efforts))))


def test_only_what_the_template_reads() -> None:
    qwen = "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    deepseek = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    seed = "{% if thinking_budget is defined %}{{ thinking_budget }}{% endif %}"
    said = "You think. enable_thinking, thinking: {{ message.thinking }} {{ message['reasoning'] }}"
    assert variables(qwen, Thinking(False)) == {"enable_thinking": False}
    assert variables(qwen, Thinking()) == {}
    assert variables(deepseek, Thinking(True)) == {"thinking": True}
    assert variables(said, Thinking(True, "low")) == {}
    assert variables(seed, Thinking(budget=7)) == {"thinking_budget": 7}
    assert variables(seed, Thinking(budget=UNLIMITED)) == {}


@pytest.mark.parametrize(
    ("effort", "known", "given"),
    [
        ("low", ("low", "medium", "high"), "low"),
        ("minimal", ("low", "medium", "high"), "low"),
        ("xhigh", ("low", "medium", "high"), "high"),
        ("medium", ("none", "high"), "high"),
        ("odd", ("low", "medium"), "medium"),
        ("odd", ("odd",), "odd"),
        ("high", (), None),
    ],
)
def test_the_nearest_effort_that_the_template_takes(effort: str, known: tuple[str, ...], given: str | None) -> None:
    found = variables("{{ reasoning_effort }}", Thinking(effort=effort), *known)
    assert found == ({} if given is None else {"reasoning_effort": given})


def test_an_effort_is_tried_once() -> None:
    of, model = ThinkingVariables("{{ reasoning_effort }}"), _Model("low")
    for _ in range(3):
        assert of.of(Thinking(effort="minimal"), cast(Vocabulary, model)) == {"reasoning_effort": "low"}
    assert model.tried == ["minimal", "none", "low"]
