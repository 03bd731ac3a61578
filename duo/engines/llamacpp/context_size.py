"""Chooses the context of a GGUF model: what a token takes, by the header, and what memory has left."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp

from duo.engines import memory
from duo.engines.gguf_files import metadata
from duo.engines.llamacpp.devices import devices
from duo.engines.llamacpp.recurrent import States
from duo.engines.options import EngineOptions
from duo.errors import ModelError


def bytes_per_token(header: Mapping[str, Any], layers: int, embedding: int, heads: int, heads_kv: int) -> int:
    """Bytes of a token's keys and values in llama.cpp's memory, over all layers. Each number takes 16 bits.

    header: from `gguf_files.metadata`. The other arguments are llama.cpp's figures for the model.
    """
    given = header.get("attention.head_count_kv", heads_kv)
    # It may differ by layer; 0 means that a layer has no attention.
    counts = [int(count) for count in given] if isinstance(given, list) else [int(given) or heads] * layers
    if interval := _number(header, "full_attention_interval"):
        counts = [count if (i + 1) % interval == 0 else 0 for i, count in enumerate(counts)]
    # The last layers may use the keys and values of earlier ones.
    counts = counts[: len(counts) - _number(header, "attention.shared_kv_layers")]
    each = embedding // max(1, heads)
    key = max(_number(header, "attention.key_length", each), _number(header, "attention.key_length_swa"))
    value = max(_number(header, "attention.value_length", each), _number(header, "attention.value_length_swa"))
    if "attention.key_length_mla" in header:
        value = 0  # latent attention reads its values out of the keys
    return memory.attention_bytes(counts, key, value)


def _number(header: Mapping[str, Any], key: str, default: int = 0) -> int:
    """A number of the header; the largest one if it differs by layer."""
    value = header.get(key, default)
    return int(max(value, default=default) if isinstance(value, list) else value)


def choose(
    path: Path, model: Any, options: EngineOptions, cells: bool, before: int | None, states: States | None = None
) -> memory.Fit:
    """The context of each slot. A layer's needs count where it runs, on the CPU or on a GPU.

    cells: the model has attention. before: bytes that were free before it was loaded. states: of its recurrent layers.
    Raises ModelError if memory holds less than is asked for.
    """
    name = path.name
    trained: int = llama_cpp.llama_model_n_ctx_train(model)
    if not trained:  # a recurrent model may not say, because its memory does not grow with the context
        trained = max(options.context, memory.USUAL)
    asked = options.context
    if options.target_context:
        asked = min(asked, trained)
    if asked > trained:
        raise ModelError(
            f"{name} has a context of {trained} tokens and cannot run with {asked}; ask for at most {trained}"
        )
    per_token = 0
    if cells:
        per_token = bytes_per_token(
            metadata(path),
            llama_cpp.llama_model_n_layer(model),
            llama_cpp.llama_model_n_embd(model),
            llama_cpp.llama_model_n_head(model),
            llama_cpp.llama_model_n_head_kv(model),
        )
    layers = max(1, llama_cpp.llama_model_n_layer(model))
    on_cpu = layers_on_cpu(options.gpu_layers, layers)
    weights = llama_cpp.llama_model_size(model) * on_cpu // layers
    state_bytes = states.resident_bytes(options) if states is not None else 0
    copies = states.checkpoint_bytes(options, asked or trained) if states is not None else 0
    cells_unasked = memory.DRAFT_CELLS if options.drafts else memory.CELLS
    fit = partial(memory.fit, name, asked, trained, options.slots, cells=cells_unasked, target=options.target_context)
    fits = []
    if on_cpu:
        free = before - state_bytes * on_cpu // layers if before is not None else None
        each = -(-per_token * on_cpu // layers)
        fits.append(fit(each, free, weights=weights, copies=copies, cleared=memory.CLEARED))
    if on_cpu < layers:
        # A GPU clears its memory in no time, and it already has its part of the weights.
        free = gpu_memory()
        free = free - state_bytes * (layers - on_cpu) // layers if free is not None else None
        fits.append(fit(per_token * (layers - on_cpu) // layers, free))
    best = min(fits, key=lambda one: one.context)
    return best._replace(bytes=best.context * per_token * options.slots)


def layers_on_cpu(gpu_layers: int, layers: int) -> int:
    """How many layers stay on the CPU. llama.cpp counts the output as one more layer, which goes to the GPU first."""
    return min(layers, max(0, layers + 1 - gpu_layers))


def gpu_memory() -> int | None:
    """Free bytes of all GPUs that llama.cpp sees; None if there is no GPU."""
    free = [device.free for device in devices() if device.gpu]
    return sum(free) if free else None
