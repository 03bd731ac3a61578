"""What competes: something that can be asked, and how it is set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

from bench.harness.models import Runtime
from bench.harness.prompts import Question


@dataclass(frozen=True)
class Setup:
    """Two models, and the two devices that run them. `both`: the cores of both devices, for the target alone."""

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
    """`tokens`: how many were decoded in `seconds`, the prompt not counted."""

    text: str
    tokens: int
    seconds: float
    drafted: int
    accepted: int


class Setting(NamedTuple):
    """How long a draft is, and the probability of its path below which it ends earlier."""

    length: int
    floor: float = 0.0

    def __str__(self) -> str:
        return f"{self.length} tokens" + (f", floor {self.floor:g}" if self.floor else "")


class Entrant(ABC):
    """A competitor. Entering it starts its processes, one after the other; asked nothing, it does nothing."""

    networked = False
    """Whether a round trip between the two devices is in it."""
    must_match = True
    """Whether its text is to be that of the target alone."""
    lengths: Sequence[int] = ()
    """Draft lengths that it can be set to; empty where there is nothing to set."""
    floors: Sequence[float] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.setting = Setting(0)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, round_trip: float) -> None:  # noqa: B027 - most have nothing to do
        """From now on the other device is so many seconds away, there and back."""

    @abstractmethod
    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        """Exactly n tokens."""
