"""The small pair that ships with the project: a target and a draft that share one vocabulary.

This file imports nothing heavy, so that a machine with only llama.cpp can find the weights.
"""

from __future__ import annotations

from pathlib import Path

TARGET: Path = Path(__file__).resolve().parent / "target"
DRAFT: Path = Path(__file__).resolve().parent / "draft"
SPECULATOR: Path = Path(__file__).resolve().parent / "speculator"
"""A head for the target (`duo.models.train_heads`)."""
