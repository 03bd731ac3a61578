"""What the person who starts the lead decides about its HTTP side."""

from __future__ import annotations

from dataclasses import dataclass

BODY_LIMIT = 4 << 20
"""Bytes of a request's body. This is more text than any context holds."""


@dataclass(frozen=True, slots=True)
class Options:
    """alias: what clients call the model, empty for its own name. slots, metrics: whether clients may see them."""

    alias: str = ""
    slots: bool = True
    metrics: bool = False
