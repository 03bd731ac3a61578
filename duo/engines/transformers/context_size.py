"""Chooses the context of a transformers model: what a token takes, by its config, and what memory has left."""

from __future__ import annotations

import sys
from typing import Any

import torch

from duo.engines import memory
from duo.engines.options import EngineOptions
from duo.engines.transformers import loading as hf

_NO_KEYS = ("linear", "conv", "mamba", "recurrent", "moe", "mlp")
"""Words in the names of layers that keep no keys and values."""


def bytes_per_token(config: Any, item: int, slots: int) -> int:
    """Bytes of a token in the arena, over all layers, and in the mask rows of all slots.

    config: of the text model. item: bytes of a number.
    """
    count = int(getattr(config, "num_hidden_layers", None) or 0)
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or [""] * count
    # If layers differ, as in Gemma 4, the config has one for each layer.
    layers = getattr(config, "per_layer_config", None) or [config] * count
    bytes_of = [_layer_bytes(layer, item) for layer in layers]
    kept = [not any(word in kind for word in _NO_KEYS) for kind in kinds]
    return sum(size for size, keeps in zip(bytes_of, kept, strict=False) if keeps) + 4 * slots


def _layer_bytes(config: Any, item: int) -> int:
    """Bytes of a token's keys and values in a layer of this configuration."""
    heads = getattr(config, "num_attention_heads", None) or 1
    shared = getattr(config, "num_key_value_heads", None) or heads
    each = getattr(config, "head_dim", None) or (getattr(config, "hidden_size", None) or 0) // heads
    rotated = getattr(config, "qk_rope_head_dim", None)
    key = (getattr(config, "qk_nope_head_dim", None) or 0) + rotated if rotated else each
    value = getattr(config, "v_head_dim", None) or each
    return memory.attention_bytes([int(shared) if isinstance(shared, int) else max(shared)], int(key), int(value), item)


def choose(
    name: str, config: Any, model: torch.nn.Module, options: EngineOptions, device: torch.device, before: int | None
) -> memory.Fit:
    """The context of each slot. The arena grows as it is used, so a long context costs nothing before.

    before: bytes that were free before the weights were read. Raises ModelError if memory holds less than is asked for.
    """
    asked = options.context
    trained = hf.context_of(config, 0 if options.target_context else asked, name, limit=sys.maxsize)
    if options.target_context:
        asked = min(asked, trained)
    weights = list(model.parameters())
    item = weights[0].element_size() if weights else 4
    on_cpu = device.type == "cpu"
    size = sum(one.numel() * one.element_size() for one in weights) if on_cpu else 0
    free = before if on_cpu else _on(device)
    per_token = bytes_per_token(config, item, options.slots)
    return memory.fit(
        name, asked, trained, options.slots, per_token, free, size, cells=memory.CELLS, target=options.target_context
    )


def _on(device: torch.device) -> int | None:
    """Free bytes of a device; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None
