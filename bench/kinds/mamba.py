"""Kinds with the states of Mamba or Mamba-2, with and without attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.kinds.attention import GRANITE, granite_keys, rope
from bench.kinds.experts import CORRECTION, granite_experts, width_keys
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

# --- Mamba and Mamba-2.


def _pure_keys(config: Config) -> dict[str, Value]:
    """Keys of models without attention and feed-forward layers."""
    return {
        "context_length": 512,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": config["layer_norm_epsilon"],
    }


def _mamba_keys(config: Config) -> dict[str, Value]:
    return {
        **_pure_keys(config),
        "ssm.conv_kernel": config["conv_kernel"],
        "ssm.inner_size": config["intermediate_size"],
        "ssm.state_size": config["state_size"],
        "ssm.time_step_rank": config["time_step_rank"],
    }


def _mamba2_keys(config: Config) -> dict[str, Value]:
    """Keys of Mamba-2. Configurations have its names with or without `mamba_` in front."""

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

# --- Falcon-H1: attention and Mamba-2 in every layer, with constant factors in many places.


def _falcon_h1_factors(tensors: dict[str, Array], config: Config) -> dict[str, Array]:
    """Multiplies the factors into the weights, as llama.cpp expects."""
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


# --- Hybrids: a layer has either a state or attention.


def _nemotron_keys(config: Config) -> dict[str, Value]:
    kinds = config["layers_block_type"]
    return {
        **_mamba2_keys(config),
        "attention.layer_norm_rms_epsilon": config["layer_norm_epsilon"],
        "attention.head_count_kv": [kv_heads(config) if kind == "full_attention" else 0 for kind in kinds],
        "feed_forward_length": [config["intermediate_size"] if kind == "mlp" else 0 for kind in kinds],
        # The configuration has these even if no layer has experts.
        **dict.fromkeys(("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count")),
    }


def _granite_hybrid_keys(config: Config) -> dict[str, Value]:
    return {
        **_mamba2_keys(config),
        "attention.head_count_kv": [kv_heads(config) if k == "full_attention" else 0 for k in config["layer_types"]],
        "rope.scaling.finetuned": config["position_embedding_type"] == "rope",
        "rope.dimension_count": config["hidden_size"] // config["num_attention_heads"],
        **granite_keys(config),
        **_granite_width(config),
    }


def _granite_width(config: Config) -> dict[str, Value]:
    shared = config["shared_intermediate_size"]
    if config["num_local_experts"]:
        return {"feed_forward_length": config["intermediate_size"], "expert_shared_feed_forward_length": shared}
    return {"feed_forward_length": shared}


def _bamba_keys(config: Config) -> dict[str, Value]:
    attention = config["attn_layer_indices"]
    return {
        **_mamba2_keys(config),
        "attention.head_count_kv": [kv_heads(config) if i in attention else 0 for i in range(4)],
    }


def _jamba_keys(config: Config) -> dict[str, Value]:
    period, offset = config["attn_layer_period"], config["attn_layer_offset"]
    return {
        "attention.head_count_kv": [kv_heads(config) if i % period == offset else 0 for i in range(4)],
        "ssm.conv_kernel": config["mamba_d_conv"],
        "ssm.inner_size": config["mamba_expand"] * config["hidden_size"],
        "ssm.state_size": config["mamba_d_state"],
        "ssm.time_step_rank": config["mamba_dt_rank"],
    }


def _nemotron_experts_keys(config: Config) -> dict[str, Value]:
    return {
        **_nemotron_keys(config),
        **width_keys(config),
        "feed_forward_length": [
            config["moe_intermediate_size"] if k == "moe" else 0 for k in config["layers_block_type"]
        ],
        "expert_count": config["n_routed_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_group_count": config["n_group"],
        "expert_shared_feed_forward_length": config["moe_shared_expert_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_norm": config["norm_topk_prob"],
        "expert_weights_scale": float(config["routed_scaling_factor"]),
    }


def _shared_gate_and_up(array: Array, config: Config) -> dict[str, Array]:
    gate, up = halves(array)
    # Another architecture has these names for the same matrices.
    return {"mlp.shared_expert.gate_proj.weight": gate, "mlp.shared_expert.up_proj.weight": up}


def _gate_and_up(array: Array, config: Config) -> dict[str, Array]:
    gate, up = halves(array)
    return {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up}


_GRANITE_HYBRID: dict[str, Any] = {
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_chunk_size": 32,
    "shared_intermediate_size": 96,
    **GRANITE,
}
_NEMOTRON: dict[str, Any] = {
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 16,
    "chunk_size": 32,
}

KINDS = (
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
        "falcon-mamba",
        "Mamba",
        "falcon_mamba",
        {"intermediate_size": 128, "state_size": 16},
        "mamba",
        lambda config: {**_mamba_keys(config), "ssm.dt_b_c_rms": True},
        (decay, flat_convolution),
    ),
    Kind(
        "jamba",
        "Mamba",
        "jamba",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 4,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 16,
            "use_mamba_kernels": False,
        },
        "jamba",
        _jamba_keys,
        (stack_experts, rename(r"feed_forward\.experts", "mlp.experts"), decay, flat_convolution),
    ),
    Kind(
        "mamba2",
        "Mamba-2",
        "mamba2",
        {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 32},
        "mamba2",
        lambda config: {**_mamba2_keys(config), **_pure_keys(config)},
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
        _NEMOTRON | {"layers_block_type": ["mamba", "attention", "mamba", "mlp"]},
        "nemotron_h",
        _nemotron_keys,
        _MAMBA2_STEPS,
    ),
    Kind(
        "nemotron-h-moe",
        "Mamba-2",
        "nemotron_h",
        _NEMOTRON
        | {
            "layers_block_type": ["mamba", "attention", "mamba", "moe"],
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
        },
        "nemotron_h_moe",
        _nemotron_experts_keys,
        (stack_experts, CORRECTION, rename(r"backbone(.*)mixer\.experts", r"model\1mlp.experts"), *_MAMBA2_STEPS),
    ),
    Kind(
        "granitehybrid",
        "Mamba-2",
        "granitemoehybrid",
        _GRANITE_HYBRID | {"num_local_experts": 0, "num_experts_per_tok": 0},
        "granitehybrid",
        _granite_hybrid_keys,
        (
            split(r"shared_mlp\.input_linear\.weight", _gate_and_up),
            rename(r"shared_mlp\.output_linear", "mlp.down_proj"),
            rotary_pairs,
            *_MAMBA2_STEPS,
        ),
    ),
    Kind(
        "granitehybrid-moe",
        "Mamba-2",
        "granitemoehybrid",
        _GRANITE_HYBRID | {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32},
        "granitehybrid",
        _granite_hybrid_keys,
        (
            split(r"shared_mlp\.input_linear\.weight", _shared_gate_and_up),
            rename(r"shared_mlp\.output_linear", "mlp.shared_expert.down_proj"),
            split(r"block_sparse_moe\.input_linear\.weight", granite_experts),
            rotary_pairs,
            *_MAMBA2_STEPS,
        ),
    ),
    Kind(
        "bamba",
        "Mamba-2",
        "bamba",
        {
            **rope(partial_rotary_factor=1.0),
            "attn_layer_indices": [1],
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 16,
            "mamba_chunk_size": 32,
        },
        "granitehybrid",
        _bamba_keys,
        (rotary_pairs, *_MAMBA2_STEPS),
    ),
)
