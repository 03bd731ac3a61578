"""The log of answers that a lead writes if it is told to: prompts and answers, as tokens, one JSON object per line.

A draft model can be trained on it (`python -m duo.models.distil --from-log`). It holds what people asked, so its file
is for its owner alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from duo.errors import FileError
from duo.program import jsonl

MAX_BYTES = 256 << 20
"""A larger file gets another name, with .1 at its end. What had that name is dropped."""


class Logged(NamedTuple):
    """vocabulary: its fingerprint. prompt, answer: tokens."""

    vocabulary: str
    prompt: Sequence[int]
    answer: Sequence[int]


class AnswerLog:
    """Appends answers to a file. One thread uses it."""

    def __init__(self, path: Path, vocabulary: str, max_bytes: int = MAX_BYTES) -> None:
        """vocabulary: the fingerprint of the model's. Raises FileError if the file cannot be written."""
        self._path, self._vocabulary, self._max_bytes = path, vocabulary, max_bytes
        self._file = self._opened()

    def add(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Write one answer. Raises FileError."""
        line = json.dumps({"vocabulary": self._vocabulary, "prompt": [*prompt], "answer": [*answer]}).encode() + b"\n"
        try:
            if self._file.tell() and self._file.tell() + len(line) > self._max_bytes:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._opened()
            self._file.write(line)
        except OSError as error:
            raise FileError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        self._file.close()

    def _opened(self) -> Any:
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._path.chmod(0o600)
        except OSError as error:
            raise FileError(f"cannot write {self._path}: {error.strerror}") from error
        file = os.fdopen(handle, "ab", buffering=0)
        file.seek(0, os.SEEK_END)
        return file


def logged(path: Path) -> list[Logged]:
    """What a log holds. Raises FileError, which names the line."""
    return jsonl.read(path, _line, "no answers in it")


def _line(value: Any, where: str) -> Logged:
    if isinstance(value, dict) and isinstance(value.get("vocabulary"), str):
        prompt, answer = _tokens(value.get("prompt")), _tokens(value.get("answer"))
        if prompt is not None and answer is not None:
            return Logged(value["vocabulary"], prompt, answer)
    raise FileError(f"{where}: not an answer of a lead's log, with `vocabulary`, `prompt` and `answer`")


def _tokens(value: Any) -> list[int] | None:
    right = isinstance(value, list) and all(type(token) is int and 0 <= token < 1 << 31 for token in value)
    return value if right else None
