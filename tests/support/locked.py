"""The HTTP side of a lead on a network: with an API key, or with TLS."""

from __future__ import annotations

from contextlib import AbstractContextManager

from duo.program.tls_files import Files
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from tests.support.http import ScriptedAnswerer, served


def locked(answerer: ScriptedAnswerer, key: str = "", tls: Files | None = None) -> AbstractContextManager[str]:
    """Yields its address. An empty `key` means that it needs none."""
    return served(guarded(create_app(answerer), [key] if key else [], 1 << 20), tls)
