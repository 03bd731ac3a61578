"""The key and the token that the lead has made, in a file of the user's, from one start to the next."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import shlex
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from duo.errors import FileError
from duo.program import values

log = logging.getLogger("lead")

SECRET_BYTES = 24
"""Random bytes in a new secret. It is written in hexadecimal, because a dash would look like a flag."""
OTHERS = 0o077
"""The mode bits that let other users in."""


class Kept(NamedTuple):
    key: str
    token: str


def kept(anew: bool = False) -> Kept:
    """The pair in the file. It is made if there is none, or if `anew` asks for others. Says where it is kept.

    Raises FileError if the file cannot be used. Without a place to write to, the pair lives as long as this program.
    """
    path = _path()
    if path is not None and not anew:
        with suppress(FileNotFoundError, NotADirectoryError):
            found = _read(path)
            log.info("key and token are those of %s (--new-secrets makes others)", path)
            return found
    made = Kept(secrets.token_hex(SECRET_BYTES), secrets.token_hex(SECRET_BYTES))
    try:
        if path is None:
            raise OSError("this user has no home folder")
        found = _write(path, made, anew)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        log.warning("key and token are for this start only: %s cannot be written (%s)", path or "their file", reason)
        return made
    log.info("key and token are kept in %s for the next start (--new-secrets makes others)", path)
    return found


def _path() -> Path | None:
    """None if the user has no folder of this kind."""
    root = os.environ.get("XDG_CONFIG_HOME")
    with suppress(RuntimeError):  # there is no home
        return (Path(root) if root else Path.home() / ".config") / "duo" / "access.json"
    return None


def _read(path: Path) -> Kept:
    """Raises FileNotFoundError or NotADirectoryError if there is no file, FileError if it cannot be used."""
    try:
        if os.name == "posix" and path.stat().st_mode & OTHERS:
            mend = f"chmod 600 {shlex.quote(str(path))}"
            raise FileError(f"{path}: other users can read these secrets; run `{mend}`, or start with --new-secrets")
        content = json.loads(path.read_text(encoding="utf-8"))
        return Kept(values.secret(content["api_key"]), values.secret(content["token"]))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FileError(f"{path}: {reason}; mend that, or start with --api-key and --token") from None
    except (ValueError, TypeError, KeyError, AttributeError, argparse.ArgumentTypeError):
        raise FileError(f"{path} is damaged; --new-secrets writes it again, with other secrets") from None


def _write(path: Path, made: Kept, anew: bool) -> Kept:
    """Write the pair whole or not at all. Of two programs that start at once, both get the pair of the first one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent)  # its mode is 600
    draft = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump({"api_key": made.key, "token": made.token}, file, indent=1)
            file.write("\n")
        if anew:
            draft.replace(path)
            return made
        try:
            os.link(draft, path)
        except FileExistsError:
            return _read(path)
        return made
    finally:
        draft.unlink(missing_ok=True)
