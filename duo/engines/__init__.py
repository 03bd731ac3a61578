"""The model runtimes behind one interface: transformers and llama.cpp. `load` decides which one serves a path."""

from __future__ import annotations

from duo.engines.base import ROOT, Engine, Logits, Piece, Row, Vocabulary
from duo.engines.load import load, runtime_of
from duo.engines.options import EngineOptions, FlashAttention

__all__ = [
    "ROOT", "Engine", "EngineOptions", "FlashAttention", "Logits", "Piece", "Row", "Vocabulary", "load", "runtime_of",
]  # fmt: skip
