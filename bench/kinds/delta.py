"""Kinds with attention and gated delta nets, or with attention and short convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.kinds.attention import rope
from bench.kinds.experts import CORRECTION, EXPERTS, SIGMOID, SPLIT_LATENT, latent_keys, shared_keys, width_keys
from bench.kinds.kind import Kind, Value
from bench.kinds.steps import (
    Config,
    Step,
    decay,
    each,
    flat_convolution,
    kv_heads,
    rename,
    split,
    stack_experts,
    time_bias,
)
from duo.models.export import Array

# --- Gated delta nets (Qwen3-Next and Qwen3.5): three of four layers have a state, and the fourth attention.

_DELTA: dict[str, Any] = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_EXPERTS: dict[str, Any] = EXPERTS | {"shared_expert_intermediate_size": 32}


def _delta_keys(config: Config) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": config["linear_num_value_heads"],
        "ssm.inner_size": config["linear_value_head_dim"] * config["linear_num_value_heads"],
        "full_attention_interval": 4,
    }
    if "num_experts" in config:
        keys |= shared_keys(config)
    return keys


def _delta35_keys(config: Config) -> dict[str, Value]:
    # Text has the same positions in all sections of a rotary embedding, so any sizes do if they add up.
    return {**_delta_keys(config), "rope.dimension_sections": [1, 1, 0, 0]}


def _next_parts(array: Array, config: Config) -> dict[str, Array]:
    """Qwen3-Next has queries, keys, values and gates together for each key head. llama.cpp has them apart."""
    groups = config["linear_num_key_heads"]
    key = config["linear_key_head_dim"]
    value = config["linear_value_head_dim"] * config["linear_num_value_heads"] // groups
    parts = np.split(array.reshape(groups, 2 * (key + value), -1), [key, 2 * key, 2 * key + value], axis=1)
    q, k, v, z = (part.reshape(-1, array.shape[1]) for part in parts)
    return {"in_proj_qkv.weight": np.concatenate([q, k, v]), "in_proj_z.weight": np.ascontiguousarray(z)}


def _tiled(array: Array, config: Config, axis: int = 0) -> Array:
    """Value heads of one key head are neighbours in the checkpoint. llama.cpp deals them out in rounds."""
    groups, count = config["linear_num_key_heads"], config["linear_num_value_heads"]
    shape = array.shape
    split_up = array.reshape(*shape[:axis], groups, count // groups, shape[axis] // count, *shape[axis + 1 :])
    return np.ascontiguousarray(split_up.swapaxes(axis, axis + 1)).reshape(shape)


def _tiled_values(array: Array, config: Config) -> Array:
    """As `_tiled`, if queries and keys come before the values."""
    before = 2 * config["linear_key_head_dim"] * config["linear_num_key_heads"]
    return np.concatenate([array[:before], _tiled(array[before:], config)])


_SHIFTED_NORMS = each(r"(?<!linear_attn\.)norm\.weight", lambda array, config: array + 1)
"""These norms multiply by 1 + w. The norm after the state does not."""

_TILED_HEADS: tuple[Step, ...] = (
    each(r"in_proj_qkv\.weight|conv1d\.weight", _tiled_values),
    each(r"in_proj_[zab]\.weight|A_log|dt_bias", _tiled),
    each(r"linear_attn\.out_proj\.weight", lambda array, config: _tiled(array, config, axis=1)),
)
_DELTA_STEPS: tuple[Step, ...] = (_SHIFTED_NORMS, decay, flat_convolution, time_bias, stack_experts)

# --- Short convolutions (LFM2): a memory of the last few tokens.


def _lfm2_keys(config: Config) -> dict[str, Value]:
    return {
        "attention.head_count_kv": [kv_heads(config) if k == "full_attention" else 0 for k in config["layer_types"]],
        "shortconv.l_cache": config["conv_L_cache"],
    }


def _lfm2moe_keys(config: Config) -> dict[str, Value]:
    return {
        **_lfm2_keys(config),
        **width_keys(config),
        "leading_dense_block_count": config["num_dense_layers"],
        "expert_gating_func": SIGMOID,
    }


# --- Kimi Linear: a delta net with a decay for each channel, and DeepSeek's attention without positions.


def _kimi_keys(config: Config) -> dict[str, Value]:
    return {
        **latent_keys(config),
        **width_keys(config),
        "attention.head_count_kv": [1 if kind == "full_attention" else 0 for kind in config["layer_types"]],
        "context_length": config["model_max_length"],
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "kda.head_dim": config["linear_head_dim"],
        "expert_shared_count": config["num_shared_experts"],
        "expert_weights_scale": float(config["routed_scaling_factor"]),
        "expert_gating_func": SIGMOID,
        "leading_dense_block_count": 1,
    }


def _kimi_convolution(array: Array, config: Config) -> Array:
    return array.reshape(1, len(array), 1, -1)


KINDS = (
    Kind(
        "kimi-linear",
        "gated delta net",
        "kimi_linear",
        {
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "linear_head_dim": 16,
            "linear_num_heads": 4,
            "num_key_value_heads": 4,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_token": 2,
            "moe_intermediate_size": 32,
            "model_max_length": 512,
        },
        "kimi-linear",
        _kimi_keys,
        (
            each(r"[qkv]_conv1d\.weight", _kimi_convolution),
            decay,
            time_bias,
            stack_experts,
            SPLIT_LATENT,
            CORRECTION,
            # transformers gives the layer without experts the name of those with experts.
            rename(r"block_sparse_moe\.((gate|up|down)_proj)", r"mlp.\1"),
        ),
    ),
    Kind(
        "qwen35",
        "gated delta net",
        "qwen3_5_text",
        _DELTA | rope(partial_rotary_factor=0.25),
        "qwen35",
        _delta35_keys,
        _TILED_HEADS + _DELTA_STEPS,
    ),
    Kind(
        "qwen3next",
        "gated delta net",
        "qwen3_next",
        _DELTA | _EXPERTS,
        "qwen3next",
        _delta_keys,
        (split(r"in_proj_qkvz\.weight", _next_parts), *_DELTA_STEPS),
    ),
    Kind(
        "qwen35moe",
        "gated delta net",
        "qwen3_5_moe_text",
        _DELTA | _EXPERTS | rope(partial_rotary_factor=0.25),
        "qwen35moe",
        _delta35_keys,
        _TILED_HEADS + _DELTA_STEPS,
    ),
    Kind(
        "lfm2moe",
        "short convolution",
        "lfm2_moe",
        EXPERTS | {"layer_types": ["conv", "full_attention", "conv", "conv"], "num_dense_layers": 1},
        "lfm2moe",
        _lfm2moe_keys,
        (
            flat_convolution,
            stack_experts,
            rename(r"expert_bias$", "expert_bias.bias"),
            rename(r"model\.(.*experts\.w)", r"\1"),
        ),
    ),
    Kind(
        "lfm2",
        "short convolution",
        "lfm2",
        {"layer_types": ["conv", "full_attention", "conv", "conv"], "block_auto_adjust_ff_dim": False},
        "lfm2",
        _lfm2_keys,
        (flat_convolution,),
    ),
)
