"""How duo is installed: what its programs are called, and what installs a part that is missing.

duo is installed from its sources. A package index may know somebody else's package by the same name, so no hint names
one there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Programs(NamedTuple):
    """How each program is started, in words of a command line."""

    lead: tuple[str, ...]
    back: tuple[str, ...]
    chat: tuple[str, ...]


def programs(started: str) -> Programs:
    """In the form in which a lead was started, as in sys.argv[0]: installed commands, or Python with a checkout."""
    if re.fullmatch(r"duo-lead(\.exe)?", Path(started).name):
        return Programs(("duo-lead",), ("duo-back",), ("duo-chat",))
    return Programs(("python", "-m", "lead"), ("python", "-m", "back"), ("python", "chat.py"))


def command(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, and where to run it."""
    return f"pip install '.[{extra}]' in the folder of duo's sources"
