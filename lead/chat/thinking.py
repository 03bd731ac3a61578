"""How a conversation's wish to think reaches the model: by variables of its template, and by a limit on its tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from duo.engines.base import Vocabulary
from duo.errors import RequestError
from lead.chat.conversation import UNLIMITED, Thinking

_SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""What templates call the switch: Qwen, GLM and Hunyuan; DeepSeek, Granite and Kimi; Command A."""
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""From little to much."""
_CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)


def decided(asked: Thinking, budget: int | None) -> Thinking:
    """The wish, with what the lead decides where it says nothing. `budget`: the lead's; None: no limit."""
    if asked.enabled is False or asked.budget == 0:
        return replace(asked, enabled=False, budget=0)
    if asked.budget is not None:
        return asked
    if asked.enabled or budget != 0:
        return replace(asked, budget=budget or None)
    return replace(asked, enabled=False, budget=0)


def limited(thinking: Thinking) -> bool:
    return thinking.budget is not None and thinking.budget < UNLIMITED


class ThinkingVariables:
    """Which variables a model's template has for thinking. The template is looked at once."""

    def __init__(self, template: str) -> None:
        code = " ".join(_CODE.findall(template))
        self._read = frozenset(re.findall(r"(?<![\w.'\"])[a-z_]+\b(?!['\"])", code))
        self._efforts: dict[str, str | None] = {}

    def of(self, thinking: Thinking, vocabulary: Vocabulary) -> Mapping[str, Any]:
        """The variables that say it to the template, which is this vocabulary's."""
        variables: dict[str, Any] = {}
        if thinking.enabled is not None:
            variables |= {name: thinking.enabled for name in _SWITCHES if name in self._read}
        if limited(thinking) and "thinking_budget" in self._read:
            variables["thinking_budget"] = thinking.budget
        if thinking.effort and "reasoning_effort" in self._read:
            if thinking.effort not in self._efforts:
                self._efforts[thinking.effort] = _nearest(thinking.effort, vocabulary)
            if (effort := self._efforts.get(thinking.effort)) is not None:
                variables["reasoning_effort"] = effort
        return variables


def _nearest(effort: str, vocabulary: Vocabulary) -> str | None:
    """The word nearest to this one that the template takes. Templates know only some of them."""
    at = _EFFORTS.index(effort) if effort in _EFFORTS else _EFFORTS.index("medium")
    near = sorted(_EFFORTS, key=lambda other: abs(_EFFORTS.index(other) - at))
    for word in dict.fromkeys([effort, *near]):
        try:
            vocabulary.render([{"role": "user", "content": "Hello."}], (), {"reasoning_effort": word})
        except RequestError:
            continue
        return word
    return None
