"""The examples run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

import back.__main__
import lead.flags
from bench.harness.processes import ROOT, LeadProcess, Program, wait_for

pytestmark = pytest.mark.slow

SECRETS = {"DUO_LEAD_TOKEN": "for-backs", "DUO_LEAD_API_KEY": "for-clients"}
ENGINES = {"DUO_LEAD_ENGINE": "llamacpp", "DUO_BACK_ENGINE": "llamacpp"}
"""The one that loads quickly."""


def output(*command: str, given: str | None = None) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, input=given, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_openai_client() -> None:
    with LeadProcess("--engine", "llamacpp", "--threads", "1") as it:
        it.ready()
        printed = output(sys.executable, "examples/openai_client.py", f"{it.url}/v1")
    assert len(printed) > 100


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("litellm", "litellm"),
        ("langchain-openai", "langchain_openai"),
        ("instructor", "instructor"),
        ("pydantic-ai", "pydantic_ai"),
    ],
)
def test_other_clients(name: str, module: str) -> None:
    pytest.importorskip(module, reason=f"{name} is too large for the dev extra: see CONTRIBUTING.md")
    with LeadProcess("--threads", "1") as it:
        it.ready()
        printed = output(sys.executable, "examples/clients.py", "--url", f"{it.url}/v1", name)
    assert printed.startswith(f"{name}:") and len(printed.splitlines()) > 2
    assert "False" not in printed and "not installed" not in printed


def test_two_backs() -> None:
    printed = output(sys.executable, "examples/two_backs.py", "What does os.path.join do?")
    assert "tokens/s" in printed
    for name in ("by-transformers", "by-llama.cpp"):
        assert re.search(rf"^{re.escape(name)} \(.*\): \d+ of \d+ guesses accepted$", printed, re.MULTILINE)


@pytest.fixture
def commands() -> list[str]:
    """The walk-through's commands, on loopback addresses in place of the LAN's, with a key and a token."""
    page = (ROOT / "examples" / "lan.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    token, key = SECRETS["DUO_LEAD_TOKEN"], SECRETS["DUO_LEAD_API_KEY"]
    for there, here in (("192.168.1.20", "127.0.0.2"), ("TOKEN", token), ("KEY", key)):
        blocks = [block.replace(there, here) for block in blocks]
    return blocks


def test_lan(commands: list[str]) -> None:
    """Lead and back as the page starts them, then its look at the backs and its question."""
    lead_command, back_command, look, question = commands
    with ExitStack() as stack:
        programs = []
        for command in (lead_command, back_command):
            python, dash_m, module, *arguments = command.split()
            assert (python, dash_m) == ("python", "-m")
            environment = {**ENGINES, **SECRETS} if module == "lead" else ENGINES
            programs.append(stack.enter_context(Program(module, *arguments, environment=environment)))
        of_lead, of_back = programs
        of_lead.says("for backs")
        of_back.says("joined the lead at 127.0.0.2:5556")

        def seen() -> bool:
            (one,) = json.loads(output("bash", "-c", look))["data"]
            return one["name"] == "spare" and one["round_trip_ms"] is not None

        wait_for(seen, "a measured round trip")
        asked = question.replace("| python ", f"| {sys.executable} ")
        assert len(output("bash", "-c", asked)) > 20
        assert "Traceback" not in of_lead.log + of_back.log


@pytest.mark.parametrize(("program", "file"), [(lead.flags, "lead.yaml"), (back.__main__, "back.yaml")])
def test_settings(program: ModuleType, file: str, tmp_path: Path) -> None:
    """The files are good as they stand, and so are the lines that are commented out."""
    text = (ROOT / "examples" / file).read_text()
    whole = tmp_path / file
    whole.write_text(re.sub(r"^# (?=[a-z-]+: [^ ])", "", text, flags=re.MULTILINE))
    for path in (ROOT / "examples" / file, whole):
        assert program.parser().parse_args(["--config", str(path)])
    assert "model:" in whole.read_text()
    keys = {line.partition(":")[0] for line in whole.read_text().splitlines() if not line.startswith("#")}
    assert "tls-cert" in keys
