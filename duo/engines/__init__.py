"""The model runtimes behind one interface: transformers and llama.cpp. `load` decides which one serves a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from duo.engines._hf_directory import locate
from duo.engines.base import ROOT, Engine, Logits, Piece, Row, Vocabulary
from duo.errors import ModelError

__all__ = [
    "ROOT", "Engine", "EngineOptions", "FlashAttention", "Logits", "Piece", "Row", "Vocabulary", "load", "runtime_of",
]  # fmt: skip

Runtime = Literal["auto", "transformers", "llamacpp"]
FlashAttention = Literal["auto", "on", "off"]
Progress = Callable[[float], None]
"""Called with the share of the model that is loaded, from 0 to 1, not decreasing; the last call is 1."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model; what a runtime does not know, it ignores.

    threads: CPU threads, 0 for the runtime's own choice. context: tokens per slot, 0 for the model's own (at most
    4,096 unless asked for). tree_rows: room for uncommitted rows beside the committed tokens, over all slots.
    batch: most rows per forward pass, tokens of prompts included. gpu_layers: llama.cpp's -ngl. device, dtype:
    torch's names, or 'auto' (dtype auto: float32 on a CPU, the checkpoint's own elsewhere). flash_attention:
    llama.cpp's (auto: as llama.cpp decides on a GPU, off on a CPU).
    """

    threads: int = 0
    context: int = 0
    slots: int = 1
    tree_rows: int = 256
    batch: int = 512
    gpu_layers: int = 0
    device: str = "auto"
    dtype: str = "auto"
    flash_attention: FlashAttention = "auto"


def runtime_of(model: str) -> Literal["transformers", "llamacpp"]:
    """Which runtime serves `model`: GGUF files (or a folder that holds just one) llama.cpp, all else transformers."""
    path = Path(model)
    if path.suffix.lower() == ".gguf":
        return "llamacpp"
    if path.is_dir() and not (path / "config.json").exists() and len(list(path.glob("*.gguf"))) == 1:
        return "llamacpp"
    return "transformers"


def load(model: str, runtime: Runtime, options: EngineOptions, progress: Progress | None = None) -> Engine:
    """Load a model: a GGUF file, a local directory in the Hugging Face layout, or a hub id.

    Raises ModelError if it cannot be found or run, or if the runtime is not installed.
    """
    chosen = runtime_of(model) if runtime == "auto" else runtime
    report = progress or (lambda share: None)
    if chosen == "llamacpp":
        _need("llama_cpp", "llamacpp")
        from duo.engines.llamacpp import LlamaCppEngine

        path = Path(model)
        return LlamaCppEngine(next(path.glob("*.gguf")) if path.is_dir() else path, options, report)
    _need("transformers", "transformers")
    _need("torch", "transformers")
    locate(model)
    from duo.engines.transformers import TransformersEngine

    return TransformersEngine(model, options, report)


def _need(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise ModelError(f"this model needs {module}, which is not installed: pip install 'duo-speculative[{extra}]'")
