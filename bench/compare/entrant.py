"""An entrant: a way to decode with the same two models, which can be asked and measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

from bench.harness.models import Runtime
from lead.match.prompts import Question


@dataclass(frozen=True)
class Setup:
    """Two models, and the cores of the two devices that run them. draft: empty if there is none."""

    target: str
    draft: str
    runtime: Runtime
    lead_cpus: Sequence[int]
    back_cpus: Sequence[int]

    @property
    def both(self) -> list[int]:
        return [*self.lead_cpus, *self.back_cpus]


@dataclass(frozen=True)
class Answer:
    """An answer. tokens: how many were decoded in `seconds`. Reading the prompt does not count."""

    text: str
    tokens: int
    seconds: float
    drafted: int
    accepted: int


class Setting(NamedTuple):
    """length: tokens of a draft. floor: the draft ends earlier once its path is less probable than this."""

    length: int
    floor: float = 0.0

    def __str__(self) -> str:
        return f"{self.length} tokens" + (f", floor {self.floor:g}" if self.floor else "")


class Entrant(ABC):
    """A competitor. Entering it starts its processes. They are idle until it is asked."""

    networked = False
    """Whether the round trip between the two devices matters to it."""
    must_match = True
    """Whether its text must be that of the target alone."""
    lengths: Sequence[int] = ()
    """Draft lengths to try; empty: it has no draft length to set."""
    floors: Sequence[float] = ()
    """Floors to try."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.setting = Setting(0)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, round_trip: float) -> None:  # noqa: B027 - most have nothing to do
        """Sets the round trip between the two devices, in seconds."""

    def forget(self) -> None:  # noqa: B027 - most remember nothing
        """Guesses nothing from the answers so far any more: the same questions come again."""

    @abstractmethod
    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        """Answers with exactly n tokens."""
