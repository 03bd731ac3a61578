"""The model runtimes behind one interface: transformers and llama.cpp. `load` chooses the runtime for a path."""

from __future__ import annotations

from duo.engines.base import ROOT, Chunk, Engine, Logits, Row, Vocabulary
from duo.engines.load import load, load_head, runtime_of
from duo.engines.options import EngineOptions, FlashAttention

__all__ = [
    "ROOT",
    "Chunk",
    "Engine",
    "EngineOptions",
    "FlashAttention",
    "Logits",
    "Row",
    "Vocabulary",
    "load",
    "load_head",
    "runtime_of",
]  # fmt: skip
