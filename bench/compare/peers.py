"""Other projects' programs, which ours is measured against, as processes.

A peer is pinned to given cores, and answers one prompt at a time with exactly as many tokens as it is asked for. It
reports the seconds from the first token to the last, as `Completion` says.
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

ANSWER_SECONDS = 600.0
"""An answer that takes longer has failed. Large models on one busy core are slow."""


class PeerError(DuoError):
    """A peer is missing or does not run. The message says why, and what to do."""


@dataclass(frozen=True)
class Completion:
    """The answer to one prompt.

    seconds: for the `len(tokens) - 1` tokens after the first, because the first one ends the prefill. drafted: guesses
    that the target checked. accepted: those of them that are in the answer.
    """

    tokens: list[int]
    seconds: float
    drafted: int = 0
    accepted: int = 0


class Peer(Program):
    """Any program in a process of its own. It is pinned before it starts, for it may start threads at once."""

    def __init__(self, command: Sequence[str], cpus: Collection[int], talks: bool = False) -> None:
        """talks: we write to its standard input and read its standard output. Its log is standard error alone."""
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
