"""Guesses from memory with real leads: the same text, asked once or again, and no backs where none are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import requests

from bench.harness.processes import BackProcess, LeadProcess

pytestmark = pytest.mark.slow

QUESTIONS = ("What does os.path.join do?", "How do I sort a list by length?")


def answer(lead: LeadProcess, question: str, temperature: float) -> str:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "temperature": temperature, "seed": 5, "max_tokens": 60, "ignore_eos": True,
    }  # fmt: skip
    reply = requests.post(f"{lead.url}/v1/chat/completions", json=body, timeout=120).json()
    text: str = reply["choices"][0]["message"]["content"]
    return text


def answers(lead: LeadProcess) -> Sequence[str]:
    return [answer(lead, question, temperature) for question in QUESTIONS for temperature in (0.0, 0.8)]


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_memory_changes_no_text(engine: str) -> None:
    common = ("--engine", engine, "--threads", "1", "--parallel", "1", "--print-mode", "none", "--exact", "on")
    with LeadProcess(*common, "--speculation", "none") as lead:
        lead.ready()
        texts = answers(lead)
    with LeadProcess(*common, "--speculation", "memory") as lead:
        lead.ready()
        assert answers(lead) == answers(lead) == texts
        with BackProcess(lead.back_port, "--engine", engine) as refused:
            refused.says("takes no backs")
