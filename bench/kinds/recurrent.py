"""Kinds with a recurrent state or a short memory of the past: gated delta nets, convolutions, Mamba, Mamba-2."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.kinds.kind import Kind, Value
from bench.kinds.steps import (
    Config,
    Step,
    column,
    decay,
    each,
    flat_convolution,
    halves,
    kv_heads,
    rename,
    rotary_pairs,
    split,
    stack_experts,
    time_bias,
)
from duo.models.export import Array

# --- Gated delta nets (Qwen3-Next and Qwen3.5): three layers of four have a state, the fourth has attention.

_DELTA: dict[str, Any] = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


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
        keys["expert_feed_forward_length"] = config["moe_intermediate_size"]
        keys["expert_shared_feed_forward_length"] = config["shared_expert_intermediate_size"]
    return keys


def _delta35_keys(config: Config) -> dict[str, Value]:
    # Positions of text are the same in all sections of a rotary embedding, so any sizes do that add up.
    return {**_delta_keys(config), "rope.dimension_sections": [1, 1, 0, 0]}


def _next_parts(array: Array, config: Config) -> dict[str, Array]:
    """Qwen3-Next has queries, keys, values and gates side by side for each key head; llama.cpp wants them apart."""
    groups = config["linear_num_key_heads"]
    key = config["linear_key_head_dim"]
    value = config["linear_value_head_dim"] * config["linear_num_value_heads"] // groups
    parts = np.split(array.reshape(groups, 2 * (key + value), -1), [key, 2 * key, 2 * key + value], axis=1)
    q, k, v, z = (part.reshape(-1, array.shape[1]) for part in parts)
    return {"in_proj_qkv.weight": np.concatenate([q, k, v]), "in_proj_z.weight": np.ascontiguousarray(z)}


def _tiled(array: Array, config: Config, axis: int = 0) -> Array:
    """Value heads that share a key head lie side by side in the checkpoint, and a whole round apart in llama.cpp."""
    groups, count = config["linear_num_key_heads"], config["linear_num_value_heads"]
    shape = array.shape
    split_up = array.reshape(*shape[:axis], groups, count // groups, shape[axis] // count, *shape[axis + 1 :])
    return np.ascontiguousarray(split_up.swapaxes(axis, axis + 1)).reshape(shape)


def _tiled_values(array: Array, config: Config) -> Array:
    """The same where queries and keys come before the values."""
    before = 2 * config["linear_key_head_dim"] * config["linear_num_key_heads"]
    return np.concatenate([array[:before], _tiled(array[before:], config)])


_SHIFTED_NORMS = each(r"(?<!linear_attn\.)norm\.weight", lambda array, config: array + 1)
"""These norms multiply by 1 + w. The one behind the state does not."""

_TILED_HEADS: tuple[Step, ...] = (
    each(r"in_proj_qkv\.weight|conv1d\.weight", _tiled_values),
    each(r"in_proj_[zab]\.weight|A_log|dt_bias", _tiled),
    each(r"linear_attn\.out_proj\.weight", lambda array, config: _tiled(array, config, axis=1)),
)
_DELTA_STEPS: tuple[Step, ...] = (_SHIFTED_NORMS, decay, flat_convolution, time_bias, stack_experts)

# --- Mamba and Mamba-2.


def _mamba_keys(config: Config) -> dict[str, Value]:
    return {
        "context_length": 512,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": config["layer_norm_epsilon"],
        "ssm.conv_kernel": config["conv_kernel"],
        "ssm.inner_size": config["intermediate_size"],
        "ssm.state_size": config["state_size"],
        "ssm.time_step_rank": config["time_step_rank"],
    }


def _mamba2_keys(config: Config) -> dict[str, Value]:
    """Of models whose configuration begins what concerns Mamba-2 with `mamba_`, has bare names, or both."""

    def of(*names: str) -> int:
        return int(next(config[name] for name in names if config.get(name) is not None))

    count = of("mamba_n_heads", "mamba_num_heads", "num_heads")
    return {
        "ssm.conv_kernel": of("mamba_d_conv", "conv_kernel"),
        "ssm.state_size": of("mamba_d_state", "ssm_state_size", "state_size"),
        "ssm.group_count": of("mamba_n_groups", "n_groups"),
        "ssm.time_step_rank": count,
        "ssm.inner_size": count * of("mamba_d_head", "mamba_head_dim", "head_dim"),
    }


def _pure_mamba2_keys(config: Config) -> dict[str, Value]:
    return {
        **_mamba2_keys(config),
        "context_length": 512,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": config["layer_norm_epsilon"],
    }


def _grouped_norm(array: Array, config: Config) -> Array:
    groups = config.get("mamba_n_groups") or config["n_groups"]
    return array.reshape(groups, -1)


_MAMBA2_STEPS: tuple[Step, ...] = (
    each(r"(mixer|mamba)\.norm\.weight", _grouped_norm),
    column,
    decay,
    flat_convolution,
    time_bias,
)

# --- Falcon-H1: attention and Mamba-2 side by side in every layer, with constant factors all over.


def _falcon_h1_factors(tensors: dict[str, Array], config: Config) -> dict[str, Array]:
    """llama.cpp expects the factors multiplied into the weights."""
    inner = config["mamba_d_ssm"]
    state = config["mamba_n_groups"] * config["mamba_d_state"]
    sections = np.repeat(config["ssm_multipliers"], [inner, inner, state, state, config["mamba_n_heads"]])
    into = config["attention_in_multiplier"]
    factors: dict[str, Any] = {
        "down_proj.weight": config["mlp_multipliers"][1],
        "gate_proj.weight": config["mlp_multipliers"][0],
        "self_attn.q_proj.weight": into,
        "self_attn.k_proj.weight": into * config["key_multiplier"],
        "self_attn.v_proj.weight": into,
        "self_attn.o_proj.weight": config["attention_out_multiplier"],
        "mamba.out_proj.weight": config["ssm_out_multiplier"],
        "mamba.in_proj.weight": config["ssm_in_multiplier"] * sections[:, None],
        "lm_head.weight": config["lm_head_multiplier"],
        "embed_tokens.weight": config["embedding_multiplier"],
    }
    return {
        name: (array * next((f for end, f in factors.items() if name.endswith(end)), 1.0)).astype(np.float32)
        for name, array in tensors.items()
    }


# --- Hybrids that have either a state or attention in a layer.


def _nemotron_keys(config: Config) -> dict[str, Value]:
    kinds = config["layers_block_type"]
    return {
        **_mamba2_keys(config),
        "attention.layer_norm_rms_epsilon": config["layer_norm_epsilon"],
        "attention.head_count_kv": [kv_heads(config) if kind == "full_attention" else 0 for kind in kinds],
        "feed_forward_length": [config["intermediate_size"] if kind == "mlp" else 0 for kind in kinds],
        # The configuration has them whether or not a layer has experts.
        **dict.fromkeys(("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count")),
    }


def _granite_keys(config: Config) -> dict[str, Value]:
    return {
        **_mamba2_keys(config),
        "attention.head_count_kv": [kv_heads(config) if k == "full_attention" else 0 for k in config["layer_types"]],
        "rope.scaling.finetuned": config["position_embedding_type"] == "rope",
        "rope.dimension_count": config["hidden_size"] // config["num_attention_heads"],
        "attention.scale": float(config["attention_multiplier"]),
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": float(config["logits_scaling"]),
        "feed_forward_length": config["shared_intermediate_size"],
    }


def _lfm2_keys(config: Config) -> dict[str, Value]:
    return {
        "attention.head_count_kv": [kv_heads(config) if k == "full_attention" else 0 for k in config["layer_types"]],
        "shortconv.l_cache": config["conv_L_cache"],
    }


def _gate_and_up(array: Array, config: Config) -> dict[str, Array]:
    gate, up = halves(array)
    return {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up}


KINDS = (
    Kind(
        "qwen35",
        "gated delta net",
        "qwen3_5_text",
        _DELTA | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
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
        "lfm2",
        "short convolution",
        "lfm2",
        {"layer_types": ["conv", "full_attention", "conv", "conv"], "block_auto_adjust_ff_dim": False},
        "lfm2",
        _lfm2_keys,
        (flat_convolution,),
    ),
    Kind(
        "mamba",
        "Mamba",
        "mamba",
        {"intermediate_size": 128, "state_size": 16},
        "mamba",
        _mamba_keys,
        (decay, flat_convolution),
    ),
    Kind(
        "mamba2",
        "Mamba-2",
        "mamba2",
        {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 32},
        "mamba2",
        _pure_mamba2_keys,
        _MAMBA2_STEPS,
    ),
    Kind(
        "falcon-h1",
        "Mamba-2",
        "falcon_h1",
        {
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 16,
            "mamba_chunk_size": 32,
            "key_multiplier": 0.8,
            "embedding_multiplier": 1.2,
        },
        "falcon-h1",
        _mamba2_keys,
        (_falcon_h1_factors, *_MAMBA2_STEPS),
    ),
    Kind(
        "nemotron-h",
        "Mamba-2",
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "ssm_state_size": 16,
            "chunk_size": 32,
        },
        "nemotron_h",
        _nemotron_keys,
        _MAMBA2_STEPS,
    ),
    Kind(
        "granitehybrid",
        "Mamba-2",
        "granitemoehybrid",
        {
            "layer_types": ["mamba", "attention", "mamba", "mamba"],
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 16,
            "mamba_chunk_size": 32,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 96,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.8,
            "logits_scaling": 1.2,
        },
        "granitehybrid",
        _granite_keys,
        (
            split(r"shared_mlp\.input_linear\.weight", _gate_and_up),
            rename(r"shared_mlp\.output_linear", "mlp.down_proj"),
            rotary_pairs,
            *_MAMBA2_STEPS,
        ),
    ),
)
