"""Thinking and calls over real processes: the budget holds, and all is the same with a back and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.harness.models import shipped
from bench.harness.processes import BackProcess, LeadProcess
from duo.models.corpus import questions

pytestmark = pytest.mark.slow

ANSWERS, BUDGET = 12, 16
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {
            "type": "object",
            "properties": {"module": {"type": "string", "maxLength": 20}, "line": {"type": "integer", "maximum": 999}},
            "required": ["module", "line"],
            "additionalProperties": False,
        },
    },
}
Told = tuple[str, str, list[tuple[str, str]], str, int]


def thinker(folder: Path) -> Path:
    """The shipped target with a template that begins every answer with thinking."""
    shutil.copytree(shipped("target", "transformers"), folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["chat_template"] += "<think>\n"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def answers(client: openai.OpenAI) -> list[Told]:
    """Thinking, text, calls, reason and tokens of thinking: with a free answer, a call and a schema in turns."""
    told: list[Told] = []
    kinds: list[dict[str, Any]] = [
        {"max_tokens": BUDGET + 40},
        {"max_tokens": 200, "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        {"max_tokens": 100, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "boolean"}}}},
    ]
    for number, question in enumerate(questions(ANSWERS, seed=5)):
        completion = client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": question.text}],
            seed=number,
            temperature=float(number % 2),
            extra_body={"thinking_budget_tokens": BUDGET},
            **kinds[number % len(kinds)],
        )
        (choice,) = completion.choices
        message = choice.message
        calls = [
            (call.function.name, call.function.arguments)
            for call in message.tool_calls or []
            if call.type == "function"
        ]
        details = completion.usage.completion_tokens_details if completion.usage else None
        thought = (message.model_extra or {}).get("reasoning_content") or ""
        tokens = details.reasoning_tokens if details and details.reasoning_tokens else 0
        told.append((thought, message.content or "", calls, choice.finish_reason, tokens))
    return told


@pytest.mark.timeout(600)
def test_a_budget_and_required_calls_are_the_same_with_a_back(tmp_path: Path) -> None:
    model = str(thinker(tmp_path / "thinker"))
    with LeadProcess("--model", model, "--threads", "1", "--print-mode", "none") as lead:
        client = openai.OpenAI(base_url=f"{lead.ready().url}/v1", api_key="none", timeout=120)
        alone = answers(client)
        for number, (thought, text, calls, reason, tokens) in enumerate(alone):
            assert thought and "</think>" not in thought + text
            assert 0 < tokens <= BUDGET + 3
            if number % 3 == 1:
                ((name, arguments),) = calls
                assert name == "look_up" and json.loads(arguments).keys() == {"module", "line"}
                assert (text, reason) == ("", "tool_calls")
            elif number % 3 == 2:
                assert text in ("true", "false") and reason == "stop"
        assert any(tokens >= BUDGET for *_, tokens in alone), "the limit was reached"
        with BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1"):
            lead.has_backs(1)
            assert answers(client) == alone
            assert lead.backs()[0]["accepted"] > ANSWERS
