"""Heads with random weights, written in the public formats, and plain computations of what they guess."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]


def write(folder: Path, config: Mapping[str, Any], weights: Weights, file: str = "model.safetensors") -> str:
    """A folder as the hub has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / file)
    return str(folder)


def random(seed: int = 0) -> Callable[..., Tensor]:
    """Makes random tensors of a shape."""
    source = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=source) * 0.25


def medusa(
    folder: Path, hidden: int, size: int, count: int, layers: int = 1, own: bool = True, prefix: str = ""
) -> str:
    """Version 1, or version 2 without projections of its own."""
    r = random()
    weights: Weights = {}
    for i in range(count):
        for j in range(layers):
            weights[f"{prefix}{i}.{j}.linear.weight"] = r(hidden, hidden)
            weights[f"{prefix}{i}.{j}.linear.bias"] = r(hidden)
        if own:
            weights[f"{prefix}{i}.{layers}.weight"] = r(size, hidden)
    config = {"medusa_num_heads": count, "medusa_num_layers": layers, "base_model_name_or_path": "tiny"}
    return write(folder, config, weights, "medusa_lm_head.safetensors")


def mlp(folder: Path, hidden: int, size: int, inner: int = 24, tied: bool = False, scales: bool = False) -> str:
    """An MLP speculator of three steps, as ibm-fms writes it."""
    r = random(1)
    weights: Weights = {}
    for i in range(1 if tied else 3):
        weights[f"speculator.emb.{i}.weight"] = r(size, inner)
        weights[f"speculator.head.{i}.weight"] = r(size, inner)
        weights[f"speculator.ln.{i}.weight"], weights[f"speculator.ln.{i}.bias"] = r(inner), r(inner)
    for i in range(2 if tied else 3):
        weights[f"speculator.proj.{i}.weight"] = r(inner, inner if i else hidden)
    config = {
        "architectures": ["MLPSpeculatorPreTrainedModel"], "model_type": "mlp_speculator", "n_predict": 3,
        "emb_dim": hidden, "inner_dim": inner, "vocab_size": size, "tie_weights": tied, "scale_input": scales,
        "top_k_tokens_per_head": [4, 3, 2], "n_candidates": 4,
    }  # fmt: skip
    return write(folder, config, weights)


def eagle3(
    folder: Path, hidden: int, size: int, layers: Sequence[int], *, nested: bool = False, draft_size: int = 40,
    embeds: bool = False, **options: Any,
) -> str:  # fmt: skip
    """An EAGLE-3 head in SpecForge's names, or in those of RedHat's speculators. options: keys of the config."""
    r = random(2)
    heads, key_heads, dim, inner = 4, 2, 8, 48
    layer = "layers.0" if nested else "midlayer"
    weights: Weights = {
        f"{layer}.input_layernorm.weight": 1 + r(hidden),
        f"{layer}.hidden_norm.weight": 1 + r(hidden),
        f"{layer}.post_attention_layernorm.weight": 1 + r(hidden),
        f"{layer}.self_attn.q_proj.weight": r(heads * dim, 2 * hidden),
        f"{layer}.self_attn.k_proj.weight": r(key_heads * dim, 2 * hidden),
        f"{layer}.self_attn.v_proj.weight": r(key_heads * dim, 2 * hidden),
        f"{layer}.self_attn.o_proj.weight": r(hidden, heads * dim),
        f"{layer}.mlp.gate_proj.weight": r(inner, hidden),
        f"{layer}.mlp.up_proj.weight": r(inner, hidden),
        f"{layer}.mlp.down_proj.weight": r(hidden, inner),
        "norm.weight": 1 + r(hidden),
        "fc.weight": r(hidden, max(1, len(layers)) * hidden),
    }
    weights["lm_head.weight"] = r(draft_size or size, hidden)
    if draft_size:
        ids = torch.arange(draft_size) * (size // draft_size) + 1
        weights["d2t"] = ids - torch.arange(draft_size)
        weights["t2d"] = torch.zeros(size, dtype=torch.bool).index_fill(0, ids, True)
    if options.get("norm_before_fc"):
        weights["input_norm.weight"] = 1 + r(len(layers) * hidden)
    if embeds:
        weights["embed_tokens.weight"] = r(size, hidden)
    numbers = {
        "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": dim,
        "intermediate_size": inner, "num_hidden_layers": 1, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "max_position_embeddings": 256, "vocab_size": size, "hidden_act": "silu",
    }  # fmt: skip
    config: dict[str, Any] = {"draft_vocab_size": draft_size or size}
    if nested:
        config |= {"architectures": ["Eagle3Speculator"], "transformer_layer_config": numbers}
        config["eagle_aux_hidden_state_layer_ids"] = [*layers]
    else:
        config |= {"architectures": ["LlamaForCausalLMEagle3"], **numbers}
        config["eagle_config"] = {
            "eagle_aux_hidden_state_layer_ids": [*layers],
            "use_aux_hidden_state": bool(layers),
        }
    return write(folder, {**config, **options}, weights)


def rms(states: Tensor, weight: Tensor, epsilon: float = 1e-6) -> Tensor:
    """The norm of Llama."""
    return states / torch.sqrt((states * states).mean(-1, keepdim=True) + epsilon) * weight


def rotated(states: Tensor, position: int, theta: float = 10000.0, share: float = 1.0) -> Tensor:
    """Rotary embedding of one row [heads, dim], of the first part of each head."""
    dim = int(states.shape[-1] * share)
    half = dim // 2
    angles = torch.tensor([position / theta ** (2 * i / dim) for i in range(half)])
    first, second, rest = states[:, :half], states[:, half:dim], states[:, dim:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1)


def attended(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """One row's attention over all these rows, head by head. query [heads, dim], each key [key heads, dim]."""
    done = []
    groups = len(query) // len(keys[0])
    for head, row in enumerate(query):
        scores = torch.stack([row @ key[head // groups] for key in keys]) / math.sqrt(len(row))
        done.append(sum(w * value[head // groups] for w, value in zip(scores.softmax(0), values, strict=True)))
    return torch.cat([part for part in done if isinstance(part, Tensor)])


def mtp(folder: Path, layer: Weights, hidden: int) -> None:
    """Add a layer for multi-token prediction to a model's folder. layer: weights of a decoder layer, for shapes."""
    r = random(4)
    weights = {f"mtp.layers.0.{name}": r(*tensor.shape) / 2 for name, tensor in layer.items()}
    weights["mtp.fc.weight"] = r(hidden, 2 * hidden) / 2
    weights |= {f"mtp.{name}.weight": r(hidden) for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")}
    save_file(weights, folder / "model-mtp.safetensors")
