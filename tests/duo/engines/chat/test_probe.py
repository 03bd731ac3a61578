"""What probing finds out about the templates of today's models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from duo.engines.chat.probe import probed
from duo.engines.chat.traits import TemplateTraits
from duo.errors import ModelError
from tests.support.templates import TEMPLATES, of_llamacpp, of_transformers

NATIVE: dict[str, Any] = {"tools": True, "calls_without_tools": True}
IN_TURNS: dict[str, Any] = {"users_in_a_row": False, "assistants_in_a_row": False, "assistant_first": False}
EXPECTED: dict[str, dict[str, Any]] = {
    "chatml": {},
    "llama2": {"system": "first", "needs_user": True, **IN_TURNS},
    "llama3": {
        **NATIVE, "assistant_first": False, "needs_user": True, "parallel_calls": False, "text_beside_calls": "split",
    },
    "gemma": {"system": "none", **IN_TURNS},
    "gemma4": {**NATIVE, "text_beside_calls": "split", "results_beside_calls": True},
    "mistral": {
        **NATIVE, **IN_TURNS, "system": "first", "needs_user": True, "ids": "nine", "user_after_tool": False,
        "text_beside_calls": "parted",
    },
    "qwen3": {**NATIVE, "arguments": "text", "thinking": "reasoning_content"},
    "qwen35": {
        **NATIVE, "system": "first", "needs_user": True, "thinking": "reasoning_content",
    },
    "deepseek": {
        **NATIVE, "system": "first", "arguments": "text", "content_beside_calls": "null", "text_beside_calls": "split",
    },
    "phi4": {},
    "command-r": {**NATIVE, "text_beside_calls": "split", "thinking": "reasoning_content"},
    "glm": {**NATIVE, "thinking": "reasoning_content"},
    "gpt-oss": {
        **NATIVE, "system": "first", "parallel_calls": False, "thinking": "thinking", "thinking_beside_text": False,
    },
    "kimi": {**NATIVE, "arguments": "text", "ids": "named"},
    "vision": {"parts": {"system", "user", "assistant"}},
    "strict": {
        "system": "first", "users_in_a_row": False, "assistants_in_a_row": False,
        "empty_user": False, "empty_assistant": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_traits(name: str) -> None:
    traits = of_llamacpp(name).traits
    assert asdict(traits) == asdict(TemplateTraits(**EXPECTED[name]))
    assert of_llamacpp(name).traits is traits, "found once"


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {"gpt-oss"}))
def test_both_runtimes_find_the_same(name: str) -> None:
    """transformers knows thinking by all its names."""
    assert of_transformers(name).traits == of_llamacpp(name).traits


def test_a_template_that_refuses_everything_has_traits_too() -> None:
    def refuses(*_: object) -> str:
        raise ValueError("no")

    assert probed(refuses).system == "none" and not probed(refuses).tools


def test_a_template_that_cannot_be_read_is_the_models_fault() -> None:
    def unreadable(*_: object) -> str:
        raise ModelError("the chat template cannot be read")

    with pytest.raises(ModelError):
        probed(unreadable)
