"""How a model is to be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Runtime = Literal["auto", "transformers", "llamacpp"]
FlashAttention = Literal["auto", "on", "off"]
Progress = Callable[[float], None]
"""Called with the share of the model that is loaded, from 0 to 1, not decreasing; the last call is 1."""

GPU_AUTO, GPU_ALL = -1, -2
"""In place of a number of layers, as llama-server has it: all where there is a GPU, and all."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model; what a runtime does not know, it ignores.

    threads: CPU threads, 0 for the runtime's own choice. context: tokens per slot, 0 for the model's own as far as
    memory allows. tree_rows: room for uncommitted rows beside the committed tokens, over all slots. batch: most
    rows per forward pass, tokens of prompts included. gpu_layers: llama.cpp's -ngl, GPU_AUTO or GPU_ALL. device,
    dtype: torch's names, or 'auto' (dtype auto: float32 on a CPU, the checkpoint's own elsewhere). flash_attention:
    llama.cpp's (auto: as llama.cpp decides on a GPU, whichever is faster on a CPU). draft_max: guesses of a slot
    that are verified at once at most; a recurrent model keeps a state for each. drafts: the model drafts.
    target_context: tokens per slot of the target beside it; 0: it is elsewhere. More is of no use, and less will do.
    chains: verify chains only, each slot with memory of its own. trial: with `chains`, whether they can be the same bit
    for bit is tried first, in a short context where that is faster (see `duo.engines.load.after_trial`).
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
