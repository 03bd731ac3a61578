"""What the person who starts the lead decides about its HTTP side."""

from __future__ import annotations

from dataclasses import dataclass

BODY_LIMIT = 4 << 20
"""Bytes. More text than any context holds."""


@dataclass(frozen=True, slots=True)
class Options:
    """alias: what the model is called to clients, its own name if empty. slots, metrics: whether they may be seen.
    max_body: most bytes in the body of a request."""

    alias: str = ""
    slots: bool = True
    metrics: bool = False
    max_body: int = BODY_LIMIT
