"""`--log-answers`: a lead writes what was asked and answered, and nothing unless it is told to."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import requests

from bench.harness.processes import LeadProcess
from duo.program.answer_log import logged

pytestmark = pytest.mark.slow


def test_answers_are_logged_for_their_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with LeadProcess(
        "--engine", "llamacpp", "--threads", "1", "--print-mode", "none", "--log-answers", str(file)
    ) as lead:
        url = lead.ready().url
        for count in (4, 7):
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": count, "temperature": 0}
            answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            assert answer.json()["usage"]["completion_tokens"] == count
    found = logged(file)
    assert [len(it.answer) for it in found] == [4, 7]
    assert found[0].prompt == found[1].prompt and list(found[1].answer[:4]) == list(found[0].answer)
    assert found[0].vocabulary and stat.S_IMODE(file.stat().st_mode) == 0o600
