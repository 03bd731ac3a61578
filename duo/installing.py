"""How a part of duo is installed that is missing.

duo is installed from its sources. A package index may know somebody else's package by the same name, so no hint names
one there.
"""

from __future__ import annotations


def command(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, and where to run it."""
    return f"pip install '.[{extra}]' in the folder of duo's sources"
