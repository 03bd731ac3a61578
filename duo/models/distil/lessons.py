"""What a draft model learns from: tokens, and what the target gave for each place of an answer.

Of the target's probabilities only the highest are kept. They lie in safetensors files, some answers in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from duo.engines.base import ROOT, Engine, Logits, Row
from duo.errors import FileError

TOP = 32
"""Probabilities that are kept for each place. They have nearly all of the mass where a guess can be right."""
ROWS = 32
"""Most tokens of a known answer that the target reads in one forward pass."""


class Lesson(NamedTuple):
    """tokens: a prompt and an answer. start: the place where the answer begins.

    top, chances: the likeliest tokens of each place of the answer, and their probabilities, [answer, TOP].
    """

    tokens: NDArray[np.int32]
    start: int
    top: NDArray[np.int32]
    chances: NDArray[np.float16]

    @property
    def size(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - self.start


class Places:
    """Collects what the target gives for the places of one answer."""

    def __init__(self) -> None:
        self._top: list[NDArray[np.int32]] = []
        self._chances: list[NDArray[np.float16]] = []

    def add(self, logits: Logits) -> None:
        """logits: [vocabulary size], of the next place."""
        top = np.argpartition(logits, -TOP)[-TOP:] if len(logits) > TOP else np.arange(len(logits))
        top = top[np.argsort(-logits[top], kind="stable")]
        highest = logits[top[0]]
        total = np.exp(logits - highest, dtype=np.float64).sum()
        self._top.append(top.astype(np.int32))
        self._chances.append((np.exp(logits[top] - highest) / total).astype(np.float16))

    def lesson(self, prompt: Sequence[int], answer: Sequence[int]) -> Lesson:
        """The answer has as many tokens as there are places."""
        tokens = np.array([*prompt, *answer], np.int32)
        return Lesson(tokens, len(prompt), np.stack(self._top), np.stack(self._chances))


def taught(target: Engine, prompt: Sequence[int], answer: Sequence[int], slot: int = 0) -> Lesson:
    """What the target gives along an answer that is known already. Raises ContextError if it does not fit."""
    target.truncate(slot, 0)
    if prompt[:-1]:
        target.extend(slot, prompt[:-1])
    places = Places()
    read = [prompt[-1], *answer[:-1]]
    width = ROWS if target.rollback.trees else min(ROWS, target.rollback.depth + 1)
    for start in range(0, len(read), width):
        rows = [Row(i, slot, token, i - 1 if i else ROOT) for i, token in enumerate(read[start : start + width])]
        for logits in target.forward(rows):
            places.add(logits)
        target.commit(slot, [row.id for row in rows])
    return places.lesson(prompt, answer)


class Shelf:
    """The lessons of a folder, in numbered files. A file that has its name is complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 1 + max((int(path.stem) for path in self._files()), default=-1)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.safetensors") if path.stem.isdecimal())

    def add(self, lessons: Sequence[Lesson]) -> None:
        """Write a file with these lessons. Raises FileError if the disk does not take it."""
        if not lessons:
            return
        path = self._folder / f"{self._next:06}.safetensors"
        part = path.with_suffix(".part")
        arrays = {
            "tokens": np.concatenate([it.tokens for it in lessons]),
            "sizes": np.array([(len(it.tokens), it.start) for it in lessons], np.int32),
            "top": np.concatenate([it.top for it in lessons]),
            "chances": np.concatenate([it.chances for it in lessons]),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file(arrays, part)
            part.replace(path)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            raise FileError(f"cannot write {path}: {error}") from error
        self._next += 1

    def read(self) -> list[Lesson]:
        """All lessons, in the order in which they were added. Raises FileError if a file is damaged."""
        return [lesson for path in self._files() for lesson in _lessons(path)]


def _lessons(path: Path) -> list[Lesson]:
    try:
        found: dict[str, Any] = load_file(path)
        sizes = [(int(length), int(start)) for length, start in found["sizes"]]
        tokens, top, chances = found["tokens"], found["top"], found["chances"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise FileError(f"{path} is damaged: delete it, and start again") from error
    lessons: list[Lesson] = []
    first = place = 0
    for length, start in sizes:
        end = place + length - start
        lessons.append(Lesson(tokens[first : first + length], start, top[place:end], chances[place:end]))
        first, place = first + length, end
    return lessons
