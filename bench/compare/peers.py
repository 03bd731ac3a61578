"""Others' speculative decoding, to measure ours against: llama.cpp's own server and transformers' assisted generation.

Both run in a process of their own, pinned to given cores, answer one prompt at a time with exactly as many tokens as
asked for, and report the seconds of decoding alone: those between the first token and the last, as `Completion` says.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import IO

from bench.harness.processes import Program, pinned, python_path
from duo.errors import DuoError

LONGEST = 600.0
"""Seconds after which an answer has failed. Large models on one busy core are slow."""


class PeerError(DuoError):
    """A peer is missing or does not run; the message says why and what to do."""


@dataclass(frozen=True)
class Completion:
    """The answer to one prompt.

    seconds: for `len(tokens) - 1` tokens, those after the first, which is the end of the prefill. drafted, accepted:
    guesses that the target has checked, and those of them that became tokens of the answer.
    """

    tokens: list[int]
    seconds: float
    drafted: int = 0
    accepted: int = 0


class Peer(Program):
    """Any program in a process of its own. Unlike ours it may start threads at once, so it is pinned from the start."""

    def __init__(self, command: Sequence[str], cpus: Collection[int], talks: bool = False) -> None:
        """`talks`: its standard input and output are for us, and only what it says on standard error is its log."""
        self.command = list(command)
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        try:
            with pinned(cpus):
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if talks else self._out,
                    stderr=self._out,
                    env={**os.environ, "PYTHONPATH": python_path(), "OMP_WAIT_POLICY": "PASSIVE"},
                )
        except OSError as error:
            self._out.close()
            raise PeerError(f"{self.command[0]} cannot be started: {error.strerror}") from error

    def ended(self) -> PeerError:
        return PeerError(f"{' '.join(self.command)} ended with {self.process.poll()}:\n{self.log[-3000:]}")
