"""States of a slot at earlier lengths, for models whose memory does not go back.

A recurrent state is one block of numbers that has seen every token. A copy taken at some length is the only way back
there. llama-server keeps such copies too (`--ctx-checkpoints`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from duo.engines.llamacpp.native import State

MIN_CHECKPOINTS = 3
"""A slot keeps this many checkpoints even beyond its bytes: a conversation needs the end of its last prompts."""


class Checkpoint(NamedTuple):
    """A copy of a slot's state after its first `length` tokens. flags: llama.cpp's, with which it was taken."""

    length: int
    state: State
    flags: int


class Checkpoints:
    """The checkpoints of one slot, by length. They take at most `max_bytes`, unless there are few."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._all: list[Checkpoint] = []

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._all)

    @property
    def last(self) -> int:
        """The greatest length of a checkpoint; 0 if there is none."""
        return self._all[-1].length if self._all else 0

    def add(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint that is at least as long as all others.

        If the bytes do not suffice, the second one is dropped. Many conversations begin with the first, and the next
        turn of this one goes on from the last.
        """
        self.cut(checkpoint.length - 1)
        self._all.append(checkpoint)
        while len(self._all) > MIN_CHECKPOINTS and sum(len(it.state) for it in self._all) > self._max_bytes:
            del self._all[1]

    def newest(self, length: int) -> Checkpoint | None:
        """The longest checkpoint of at most `length` tokens."""
        return next((it for it in reversed(self._all) if it.length <= length), None)

    def cut(self, length: int) -> None:
        """Forget the checkpoints of more than `length` tokens."""
        self._all = [it for it in self._all if it.length <= length]

    def drop(self, checkpoint: Checkpoint) -> None:
        """Forget a checkpoint that could not be restored."""
        self._all = [it for it in self._all if it is not checkpoint]
