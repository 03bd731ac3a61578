"""The examples run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack

import pytest

from bench.processes import ROOT, LeadProcess, Program, wait_for

pytestmark = pytest.mark.slow


def output(*command: str, given: str | None = None) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, input=given, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_openai_client() -> None:
    with LeadProcess("--threads", "1") as lead:
        lead.ready()
        printed = output(sys.executable, "examples/openai_client.py", f"{lead.url}/v1")
    assert len(printed) > 100


def test_two_backs() -> None:
    printed = output(sys.executable, "examples/two_backs.py", "What does os.path.join do?")
    assert "tokens/s" in printed
    for name in ("by-transformers", "by-llama.cpp"):
        assert re.search(rf"^{re.escape(name)} \(.*\): \d+ of \d+ guesses accepted$", printed, re.MULTILINE)


@pytest.fixture
def commands() -> list[str]:
    """The walk-through's commands, on loopback addresses in place of the LAN's."""
    page = (ROOT / "examples" / "lan.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    return [block.replace("192.168.1.20", "127.0.0.2") for block in blocks]


def test_lan(commands: list[str]) -> None:
    """Lead and back as the page starts them, then its look at the backs and its question."""
    lead_command, back_command, look, question = commands
    with ExitStack() as stack:
        programs = []
        for command in (lead_command, back_command):
            python, dash_m, module, *arguments = command.split()
            assert (python, dash_m) == ("python", "-m")
            programs.append(stack.enter_context(Program(module, *arguments)))
        lead, back = programs
        lead.says("for backs")
        back.says("joined the lead at 127.0.0.2:5556")

        def seen() -> bool:
            (one,) = json.loads(output("bash", "-c", look))["data"]
            return one["name"] == "spare" and one["round_trip_ms"] is not None

        wait_for(seen, "a measured round trip")
        asked = question.replace("| python ", f"| {sys.executable} ")
        assert len(output("bash", "-c", asked)) > 20
        assert "Traceback" not in lead.log + back.log
