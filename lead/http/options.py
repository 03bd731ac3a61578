"""What the person who starts the lead decides about its HTTP side."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """alias: what the model is called to clients, its own name if empty. slots, metrics: whether they may be seen."""

    alias: str = ""
    slots: bool = True
    metrics: bool = False
