"""An agent that reads a file by a tool call. The lead's HTTP side is real, and the model's words are given.

It needs Codex's command line (`npm install -g @openai/codex`). examples/agents.md has a transcript.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.http import ScriptedAnswerer, serving

CODEX = shutil.which("codex")
SECRET = "The password is swordfish."
CALL = {"name": "exec_command", "arguments": {"cmd": "cat a.txt"}}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CODEX is None, reason="Codex's command line is not installed")]


def test_codex_reads_a_file(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "a.txt").write_text(SECRET)
    answerer = ScriptedAnswerer()
    answerer.scripts = [
        [("I read ", "it.\n<tool_"), (f"call>{json.dumps(CALL)}</tool", "_call>")],
        [("It says: ",), ("swordfish.",)],
    ]
    with serving(answerer) as url:
        (home / "config.toml").write_text(
            'model = "any"\nmodel_provider = "lead"\n[model_providers.lead]\nname = "lead"\n'
            f'base_url = "{url}/v1"\nwire_api = "responses"\n'
        )
        run = subprocess.run(
            [
                str(CODEX), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
                "What is in a.txt?",
            ],
            cwd=work, env={**os.environ, "CODEX_HOME": str(home), "HOME": str(home)},
            capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "It says: swordfish."
    first, second = answerer.next_asked(), answerer.next_asked()
    assert first.messages[-1] == {"role": "user", "content": "What is in a.txt?"}
    call, result = second.messages[-2:]
    assert call["tool_calls"][0]["function"] == CALL and call["content"] == "I read it.\n"
    assert result["role"] == "tool" and SECRET in result["content"]
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
