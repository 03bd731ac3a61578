"""The parts of an answer, in the order in which the model writes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of the model's thinking, without the marks around it."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. `arguments` are JSON.

    If the answer ended within the call, the call is not `whole`: its arguments are cut.
    """

    id: str
    name: str
    arguments: str
    whole: bool = True


Part = Text | Thought | Call
