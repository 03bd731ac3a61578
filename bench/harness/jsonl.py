"""Files of one JSON value per line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from duo.errors import FileError

T = TypeVar("T")


def text_of(path: Path) -> str:
    """What is in a text file. Raises FileError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise FileError(f"cannot read {path}: {(reason or str(error)).lower()}") from None


def read(path: Path, line: Callable[[Any, str], T], empty: str) -> list[T]:
    """What `line(value, where)` makes of every line that is not blank; it may raise FileError, beginning with `where`.

    Raises FileError if the file cannot be read, for a line that is not JSON, and, with what `empty` says, for none.
    """
    found: list[T] = []
    for number, text in enumerate(text_of(path).splitlines(), 1):
        if text.strip():
            where = f"{path}:{number}"
            try:
                value: Any = json.loads(text)
            except ValueError:
                raise FileError(f"{where}: not JSON") from None
            found.append(line(value, where))
    if not found:
        raise FileError(f"{path}: {empty}")
    return found
