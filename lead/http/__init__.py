"""The lead over HTTP: OpenAI's APIs, llama_duo's messages, and what a person wants to look at."""

from __future__ import annotations

from lead.http.app import create_app
from lead.http.observe import Watch
from lead.http.options import BODY_LIMIT, Options

__all__ = ["BODY_LIMIT", "Options", "Watch", "create_app"]
