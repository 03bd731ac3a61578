"""Kinds with experts and attention, whose keys and values may be compressed."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.kinds.attention import GRANITE, granite_keys, rope, window_keys, windows
from bench.kinds.kind import Kind, Value
from bench.kinds.steps import Config, halves, heads, rename, rotary_pairs, split, stack_experts
from duo.models.export import Array

EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SIGMOID = 2
"""llama.cpp's number for a sigmoid that chooses experts, instead of a softmax."""


def width_keys(config: Config) -> dict[str, Value]:
    return {"expert_feed_forward_length": config["moe_intermediate_size"]}


def shared_keys(config: Config) -> dict[str, Value]:
    return {**width_keys(config), "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"]}


def granite_experts(array: Array, config: Config) -> dict[str, Array]:
    gate, up = halves(array)
    return {"mlp.experts.gate_proj.weight": gate, "mlp.experts.up_proj.weight": up}


# --- DeepSeek: a token's keys and values are one compressed vector. llama.cpp computes with the vector itself.

_LATENT: dict[str, Any] = {
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.5,
}


def latent_keys(config: Config) -> dict[str, Value]:
    rank, turned = config["kv_lora_rank"], config["qk_rope_head_dim"]
    return {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": config["qk_nope_head_dim"] + turned,
        "attention.value_length_mla": config["v_head_dim"],
        "rope.dimension_count": turned,
    }


def _deepseek_keys(config: Config) -> dict[str, Value]:
    return {
        **latent_keys(config),
        **width_keys(config),
        "attention.q_lora_rank": config["q_lora_rank"],
        "leading_dense_block_count": config["first_k_dense_replace"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_scale": float(config["routed_scaling_factor"]),
    }


def _deepseek3_keys(config: Config) -> dict[str, Value]:
    return {
        **_deepseek_keys(config),
        "expert_weights_norm": config["norm_topk_prob"],
        "expert_gating_func": SIGMOID,
    }


def keys_and_values(array: Array, config: Config) -> dict[str, Array]:
    """Splits the matrix that turns the vector into keys and values. The part for keys is transposed."""
    size = config["qk_nope_head_dim"]
    both = array.reshape(heads(config), size + config["v_head_dim"], -1)
    return {
        "k_b_proj.weight": np.ascontiguousarray(both[:, :size].swapaxes(1, 2)),
        "v_b_proj.weight": np.ascontiguousarray(both[:, size:]),
    }


SPLIT_LATENT = split(r"kv_b_proj\.weight", keys_and_values)
CORRECTION = rename(r"\.e_score_correction_bias$", ".e_score_correction.bias")

# --- gpt-oss: sinks, and experts whose rows alternate between gates and values.


def _gpt_oss_keys(config: Config) -> dict[str, Value]:
    return {**window_keys(config), "expert_feed_forward_length": config["intermediate_size"]}


def _alternating(array: Array, config: Config) -> dict[str, Array]:
    rows = array.swapaxes(1, 2)
    return {
        ".gate_proj.weight": np.ascontiguousarray(rows[:, ::2]),
        ".up_proj.weight": np.ascontiguousarray(rows[:, 1::2]),
    }


def _alternating_bias(array: Array, config: Config) -> dict[str, Array]:
    return {
        ".gate_proj.bias": np.ascontiguousarray(array[:, ::2]),
        ".up_proj.bias": np.ascontiguousarray(array[:, 1::2]),
    }


def _rows(array: Array, config: Config) -> dict[str, Array]:
    return {".down_proj.weight": np.ascontiguousarray(array.swapaxes(1, 2))}


KINDS = (
    Kind("mixtral", "MoE", "mixtral", {"num_local_experts": 4}, "llama", steps=(rotary_pairs, stack_experts)),
    Kind(
        "qwen2moe",
        "MoE",
        "qwen2_moe",
        EXPERTS | {"shared_expert_intermediate_size": 32},
        "qwen2moe",
        shared_keys,
        (stack_experts,),
    ),
    Kind("qwen3moe", "MoE", "qwen3_moe", EXPERTS | {"norm_topk_prob": True}, "qwen3moe", width_keys, (stack_experts,)),
    Kind(
        "olmoe",
        "MoE",
        "olmoe",
        {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
        "olmoe",
        steps=(stack_experts,),
    ),
    Kind(
        "granitemoe",
        "MoE",
        "granitemoe",
        {"num_local_experts": 4, **GRANITE},
        "granitemoe",
        granite_keys,
        (rotary_pairs, split(r"block_sparse_moe\.input_linear\.weight", granite_experts)),
    ),
    Kind(
        "glm4moe",
        "MoE",
        "glm4_moe",
        {
            **rope(partial_rotary_factor=0.5),
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
        },
        "glm4moe",
        lambda config: {
            **width_keys(config),
            "leading_dense_block_count": config["first_k_dense_replace"],
            "expert_shared_count": config["n_shared_experts"],
            "expert_weights_scale": float(config["routed_scaling_factor"]),
            "expert_weights_norm": config["norm_topk_prob"],
            "expert_gating_func": SIGMOID,
        },
        (stack_experts, CORRECTION),
    ),
    Kind("deepseek2", "MLA", "deepseek_v2", _LATENT, "deepseek2", _deepseek_keys, (stack_experts, SPLIT_LATENT)),
    Kind(
        "deepseek3",
        "MLA",
        "deepseek_v3",
        {**_LATENT, "n_group": 2, "topk_group": 1},
        "deepseek2",
        _deepseek3_keys,
        (stack_experts, SPLIT_LATENT, CORRECTION),
    ),
    Kind(
        "gpt-oss",
        "sinks",
        "gpt_oss",
        {**rope(), **windows(2), "num_local_experts": 4, "num_experts_per_tok": 2},
        "gpt-oss",
        _gpt_oss_keys,
        (
            split(r"\.gate_up_proj", _alternating),
            split(r"\.gate_up_proj_bias", _alternating_bias),
            split(r"\.down_proj", _rows),
            rename(r"\.down_proj_bias$", ".down_proj.bias"),
            rename(r"\.sinks$", ".sinks.weight"),
        ),
    ),
)
