"""Files of one JSON value per line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from duo.errors import FileError, why_unread

T = TypeVar("T")


def text_of(path: Path) -> str:
    """The contents of a text file. Raises FileError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {why_unread(error)}") from None


def read(path: Path, parse: Callable[[Any, str], T], empty: str) -> list[T]:
    """Reads a file of one JSON value per line, and returns `parse(value, where)` of each. Blank lines are skipped.

    where: the file and the line number, for the errors of `parse`. empty: the error of a file without lines. Raises
    FileError, also for a line that is not JSON.
    """
    found: list[T] = []
    for number, text in enumerate(text_of(path).splitlines(), 1):
        if text.strip():
            where = f"{path}:{number}"
            try:
                value: Any = json.loads(text)
            except ValueError:
                raise FileError(f"{where}: not JSON") from None
            found.append(parse(value, where))
    if not found:
        raise FileError(f"{path}: {empty}")
    return found
