"""The process of a model, with programs of the shell in its place: how its end is found, and what goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import lead.flags
from bench.harness.processes import wait_for
from lead.models import process
from lead.models.process import LoadError, Process
from lead.models.settings import ModelSettings
from tests.support.http import PATIENCE

READY = '{"ready": {"port": 1, "back_port": 2, "model": "it", "fingerprint": "x"}}'
Starts = Callable[[str], Process]


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    """The process of a model whose program is this text for the shell."""
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.01)
    monkeypatch.setattr(process, "LAST_WORDS_SECONDS", 0.1)

    def made(text: str) -> Process:
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        program.chmod(0o700)
        monkeypatch.setattr("sys.executable", str(program))
        return Process(ModelSettings("it", lead.flags.parser().parse_args([])))

    return made


def of_own(tmp_path: Path) -> psutil.Process:
    """The process that the program has started."""
    return psutil.Process(int((tmp_path / "own").read_text()))


def gone(it: psutil.Process) -> bool:
    return not it.is_running() or it.status() == psutil.STATUS_ZOMBIE


def test_an_end_is_found_while_a_process_of_its_own_holds_the_pipes(starts: Starts, tmp_path: Path) -> None:
    async def run() -> None:
        it = starts("sleep 1000 &\necho $! > own\nkill -9 $$")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(LoadError, match="ended by SIGKILL"):
                await it.load()
            own = of_own(tmp_path)
            assert not gone(own)
            await it.stop()
            await asyncio.to_thread(wait_for, lambda: gone(own), "the end of what it has started")

    asyncio.run(run())


def test_an_end_after_the_load(starts: Starts, tmp_path: Path) -> None:
    async def run() -> None:
        it = starts(f"sleep 1000 &\necho $! > own\necho '{READY}'\necho one >&2\necho the last line >&2\nexit 3")
        async with asyncio.timeout(PATIENCE):
            assert (await it.load()).port == 1
            assert await it.ended() == "its process ended with exit code 3: the last line"
            await it.stop()

    asyncio.run(run())


def test_one_that_does_not_stop_is_killed_with_all_that_it_has_started(
    starts: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.01)

    async def run() -> None:
        it = starts(f"trap '' TERM\nsleep 1000 &\necho $! > own\necho '{READY}'\nwait")
        async with asyncio.timeout(PATIENCE):
            await it.load()
            own = of_own(tmp_path)
            await it.stop()
            await asyncio.to_thread(wait_for, lambda: gone(own), "the end of what it has started")
            assert "SIGKILL" in await it.ended()

    asyncio.run(run())


def test_an_error_that_the_program_reports_is_its_own(starts: Starts) -> None:
    async def run() -> None:
        it = starts("""echo '{"error": "it does not fit"}'\nexit 1""")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(LoadError, match="it does not fit") as error:
                await it.load()
            assert error.value.own
            await it.stop()

    asyncio.run(run())
