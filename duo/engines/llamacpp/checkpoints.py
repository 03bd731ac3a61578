"""States of a slot at earlier lengths, for models whose memory does not go back.

A recurrent state is one block of numbers that has seen every token. A copy of it, taken at some length, is the only way
back there. llama-server keeps such copies too (`--ctx-checkpoints`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from duo.engines.llamacpp.native import State

LEAST = 3
"""Checkpoints that a slot keeps whatever they take: a conversation needs the end of its last prompts."""


class Checkpoint(NamedTuple):
    """A copy of a slot's state after its first `length` tokens. `flags`: those it was taken with."""

    length: int
    state: State
    flags: int


class Checkpoints:
    """The checkpoints of one slot, by length, within a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._all: list[Checkpoint] = []

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._all)

    @property
    def last(self) -> int:
        """The greatest length of a checkpoint; 0 where there is none."""
        return self._all[-1].length if self._all else 0

    def add(self, checkpoint: Checkpoint) -> None:
        """Keep one that is longer than all others, or as long as the last.

        Where the bytes do not suffice the second one goes. The first is what many conversations begin with, and the
        last ones are where the next turn of this one goes on.
        """
        self.cut(checkpoint.length - 1)
        self._all.append(checkpoint)
        while len(self._all) > LEAST and sum(len(it.state) for it in self._all) > self._most:
            del self._all[1]

    def newest(self, length: int) -> Checkpoint | None:
        """The longest one of at most `length` tokens."""
        return next((it for it in reversed(self._all) if it.length <= length), None)

    def cut(self, length: int) -> None:
        """Forget those of more than `length` tokens."""
        self._all = [it for it in self._all if it.length <= length]

    def drop(self, checkpoint: Checkpoint) -> None:
        """Forget this one, which turned out to be of no use."""
        self._all = [it for it in self._all if it is not checkpoint]
