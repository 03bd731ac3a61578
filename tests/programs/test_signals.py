"""Leads and backs stop cleanly, and run on small machines."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import requests

from bench.harness.processes import ROOT, BackProcess, LeadProcess, Program, Reply

QUESTION = "What does os.path.join do?"
GREEDY = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}

pytestmark = pytest.mark.slow


class TestSignals:
    """Programs stop cleanly, whatever they are doing."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_in_the_middle_of_an_answer(self, number: signal.Signals) -> None:
        with LeadProcess("--threads", "1") as lead:
            lead.ready()
            with BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1") as back:
                lead.has_backs(1)
                reply, asked = Reply(), False
                try:
                    for _ in lead.stream(QUESTION, reply, temperature=0, max_tokens=900, ignore_eos=True):
                        if not asked and len(reply.text) > 50:
                            lead.send(number)
                            asked = True
                except (requests.RequestException, RuntimeError):
                    pass  # cut off, or told so: both are fine for a lead that was asked to stop
                assert lead.process.wait(30) == 0
                back.says("lost the lead")
                back.send(number)
                assert back.process.wait(30) == 0
                assert "Traceback" not in lead.log + back.log

    def test_while_loading(self) -> None:
        with Program("lead", "--port", "0", "--back-port", "0") as program:
            program.says("loading")
            program.send(signal.SIGTERM)
            assert program.process.wait(60) == 0
            assert "Traceback" not in program.log

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_while_a_load_takes_longer_than_anybody_waits(self, tmp_path: Path, number: signal.Signals) -> None:
        (tmp_path / "stuck.py").write_text(
            "import asyncio, threading\n"
            "from duo.program import run\n"
            "async def program():\n"
            "    try:\n"
            "        print('loading')\n"
            "        await asyncio.to_thread(threading.Event().wait)\n"
            "    finally:\n"
            "        print('closed', end='')\n"
            "run.run(program, False)\n"
        )
        with Program("stuck", environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}) as program:
            program.says("loading")
            program.send(number)
            assert program.process.wait(30) == 0
            assert program.log.endswith("closed")
