"""Kinds with attention alone, and without experts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.kinds import vocabulary
from bench.kinds.kind import Kind, Value
from bench.kinds.steps import Config, Tensors, each, heads, plus_one, rename, rotary_pairs
from duo.models.export import Array

WINDOW = 24
"""Tokens of a sliding window. Every prompt is longer."""


def rope(**more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **more}}


def windows(full: int) -> dict[str, Any]:
    """Every `full`-th layer sees all tokens, and the others see a window."""
    kinds = ["full_attention" if (i + 1) % full == 0 else "sliding_attention" for i in range(4)]
    return {"layer_types": kinds, "sliding_window": WINDOW}


def window_keys(config: Config) -> dict[str, Value]:
    return {"attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config["layer_types"]]}


def _gemma2_keys(config: Config) -> dict[str, Value]:
    return {
        **window_keys(config),
        "attn_logit_softcapping": config["attn_logit_softcapping"],
        "final_logit_softcapping": config["final_logit_softcapping"],
    }


def _gemma4_keys(config: Config) -> dict[str, Value]:
    """Layers that see all tokens have wider heads. The last layers share keys and values."""
    wide = config["per_layer_config"]["3"]["head_dim"]
    return {
        **window_keys(config),
        "attention.key_length": wide,
        "attention.value_length": wide,
        "attention.key_length_swa": config["head_dim"],
        "attention.value_length_swa": config["head_dim"],
        "attention.shared_kv_layers": config["num_kv_shared_layers"],
        "final_logit_softcapping": config["final_logit_softcapping"],
        "embedding_length_per_layer_input": config["hidden_size_per_layer_input"],
        "rope.dimension_count": wide,
        "rope.dimension_count_swa": config["head_dim"],
    }


def _gemma4_rotation(tensors: Tensors, config: Config) -> Tensors:
    """llama.cpp rotates all pairs of a wide head. A huge wavelength keeps most of them as they are."""
    pairs = config["per_layer_config"]["3"]["head_dim"] // 2
    turned = int(pairs * config["rope_parameters"]["full_attention"]["partial_rotary_factor"])
    factors = np.array([1.0] * turned + [1e30] * (pairs - turned), dtype=np.float32)
    return tensors | {"rope_freqs.weight": factors}


def _cohere_keys(config: Config) -> dict[str, Value]:
    keys: dict[str, Value] = {"logit_scale": config["logit_scale"]}
    return keys | window_keys(config) if "layer_types" in config else keys


def granite_keys(config: Config) -> dict[str, Value]:
    """Factors of all Granite models."""
    return {
        "attention.scale": float(config["attention_multiplier"]),
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": float(config["logits_scaling"]),
    }


GRANITE: dict[str, Any] = {
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.8,
    "logits_scaling": 1.2,
    "embedding_multiplier": 1.5,
}


def _phi3_keys(config: Config) -> dict[str, Value]:
    return {"rope.scaling.original_context_length": config["max_position_embeddings"]}


def _residual_keys(config: Config) -> dict[str, Value]:
    return {"use_parallel_residual": config["use_parallel_residual"]}


def _nemotron_keys(config: Config) -> dict[str, Value]:
    return {"attention.layer_norm_epsilon": config["norm_eps"]}


def _gpt2_keys(config: Config) -> dict[str, Value]:
    return {"feed_forward_length": 4 * config["n_embd"]}


def _by_head(array: Array, config: Config) -> Array:
    """GPT-NeoX has query, key and value of a head side by side. llama.cpp has all queries first."""
    parts = array.reshape(heads(config), 3, -1, *array.shape[1:])
    return np.concatenate([parts[:, i].reshape(-1, *array.shape[1:]) for i in range(3)])


KINDS = (
    Kind("llama", "attention", "llama", arch="llama", steps=(rotary_pairs,)),
    Kind("mistral", "attention", "mistral", {"sliding_window": None}, "llama", steps=(rotary_pairs,)),
    Kind("qwen2", "attention", "qwen2", arch="qwen2"),
    Kind("qwen3", "attention", "qwen3", arch="qwen3"),
    Kind(
        "phi3",
        "attention",
        "phi3",
        {"original_max_position_embeddings": 512},
        "phi3",
        _phi3_keys,
    ),
    Kind(
        "glm4",
        "attention",
        "glm4",
        rope(partial_rotary_factor=0.5),
        "glm4",
    ),
    Kind("olmo", "attention", "olmo", {"layer_norm_epsilon": 1e-5}, "olmo", steps=(rotary_pairs,)),
    Kind("olmo2", "attention", "olmo2", arch="olmo2"),
    Kind("smollm3", "attention", "smollm3", rope(), "smollm3", steps=(rotary_pairs,)),
    Kind("granite", "attention", "granite", GRANITE, "granite", granite_keys, (rotary_pairs,)),
    Kind(
        "exaone4",
        "attention",
        "exaone4",
        {"sliding_window": None, "sliding_window_pattern": None, "layer_types": ["full_attention"] * 4},
        "exaone4",
    ),
    Kind(
        "starcoder2",
        "attention",
        "starcoder2",
        {"sliding_window": None, "embedding_dropout": 0.0, "residual_dropout": 0.0},
        "starcoder2",
    ),
    Kind(
        "gpt2",
        "attention",
        "gpt2",
        {"num_key_value_heads": 4},
        "gpt2",
        _gpt2_keys,
        (each(r"(c_attn|c_proj|c_fc)\.weight", lambda array, config: np.ascontiguousarray(array.T)),),
    ),
    Kind(
        "gpt-neox",
        "attention",
        "gpt_neox",
        {"num_key_value_heads": 4},
        "gptneox",
        _residual_keys,
        (each(r"query_key_value\..*", _by_head),),
    ),
    Kind("phi2", "attention", "phi", {"num_key_value_heads": 4}, "phi2"),
    Kind("stablelm", "attention", "stablelm", {"use_qkv_bias": True}, "stablelm", _residual_keys),
    Kind("nemotron", "attention", "nemotron", {}, "nemotron", _nemotron_keys, (plus_one,)),
    Kind(
        "command-r", "attention", "cohere", {"tie_word_embeddings": True, "logit_scale": 0.9}, "command-r", _cohere_keys
    ),
    Kind(
        "cohere2",
        "sliding window",
        "cohere2",
        {"tie_word_embeddings": True, "logit_scale": 0.9, **windows(4)},
        "cohere2",
        _cohere_keys,
    ),
    Kind(
        "gemma2",
        "sliding window",
        "gemma2",
        {"query_pre_attn_scalar": 16, "tie_word_embeddings": True, **windows(2)},
        "gemma2",
        _gemma2_keys,
        (plus_one,),
    ),
    Kind(
        "gemma3",
        "sliding window",
        "gemma3_text",
        {"query_pre_attn_scalar": 16, **windows(4)},
        "gemma3",
        window_keys,
        (plus_one,),
    ),
    Kind(
        "gemma4",
        "sliding window",
        "gemma4_text",
        {
            "vocab_size_per_layer_input": vocabulary.SIZE,
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 2,
            "final_logit_softcapping": 30.0,
            "per_layer_config": {"1": {"head_dim": 32}, "3": {"head_dim": 32}},
            **windows(2),
        },
        "gemma4",
        _gemma4_keys,
        (rename(r"layer_scalar$", "layer_scalar.weight"), _gemma4_rotation),
    ),
    Kind("olmo3", "sliding window", "olmo3", windows(4), "olmo2", window_keys),
)
