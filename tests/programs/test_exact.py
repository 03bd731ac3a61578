"""`--exact` of a real lead: with a back that comes and goes, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from bench.harness.processes import ROOT, BackProcess, LeadProcess
from bench.kinds import make

pytestmark = pytest.mark.slow

QUESTIONS = ["What does os.path.join do?", "How do I reverse a list?", "What does os.path.join do?"]
FIELDS: dict[str, Any] = {"temperature": 0.8, "seed": 7, "max_tokens": 60, "ignore_eos": True}


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_the_same_text_with_a_back_and_without(engine: str) -> None:
    arguments = ("--engine", engine, "--threads", "1", "--exact", "on", "--parallel", "3", "--print-mode", "none")
    with LeadProcess(*arguments) as lead:
        lead.ready()
        assert requests.get(f"{lead.url}/props", timeout=60).json()["exactness"].startswith("exact on: ")
        lead.says("exact on: ")
        alone = [lead.ask(question, **FIELDS).text for question in QUESTIONS]
        with BackProcess(lead.back_port, "--engine", engine, "--threads", "1"):
            lead.has_backs(1)
            assert [lead.ask(question, **FIELDS).text for question in QUESTIONS] == alone
        assert [lead.ask(question, **FIELDS).text for question in QUESTIONS] == alone
        assert alone[0] == alone[2]


def test_a_model_that_cannot_is_refused_in_a_line(tmp_path: Path) -> None:
    made = make("mamba2", tmp_path)
    ports = ("--port", "0", "--back-port", "0")
    for mode, code in (("on", 1), ("of", 2)):
        command = [sys.executable, "-m", "lead", "-m", str(made.gguf), *ports, "--exact", mode]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        assert len(errors) == 1 and "--exact" in errors[0] and "Traceback" not in done.stderr
