"""Options of an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Runtime = Literal["auto", "transformers", "llamacpp"]
FlashAttention = Literal["auto", "on", "off"]
Progress = Callable[[float], None]
"""Called with the share of the model that is loaded. It rises from 0 to 1; the last call is 1."""

GPU_AUTO, GPU_ALL = -1, -2
"""Values of `gpu_layers` instead of a number, as in llama-server: all layers if there is a GPU, and all layers."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model. A runtime ignores what it does not know.

    threads: CPU threads; 0 for the runtime's choice.
    context: tokens per slot; 0 for the model's own, as far as memory allows.
    tree_rows: most live rows beside the committed tokens, over all slots.
    batch: most rows per forward pass, tokens of prompts included.
    gpu_layers: llama.cpp's -ngl, GPU_AUTO or GPU_ALL.
    device, dtype: torch's names, or 'auto'. dtype auto is float32 on a CPU, else the checkpoint's own.
    flash_attention: for llama.cpp. auto: llama.cpp decides on a GPU; on a CPU the faster way is chosen.
    draft_max: most guesses of a slot that are verified at once. A recurrent model keeps a state for each.
    drafts: the model drafts.
    target_context: for a draft model, tokens per slot of the target beside it; 0 if the target is elsewhere. More
        tokens are of no use, and fewer will do.
    chains: verify chains only, and give each slot its own memory.
    name: what to call the model; empty: as its file or folder.
    trial: with `chains`, first try whether they give the same bits, in a short context if that is faster (see
        `duo.engines.load.after_trial`).
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
    draft_max: int = 16
    drafts: bool = False
    target_context: int = 0
    chains: bool = False
    trial: bool = False
    name: str = ""
