"""The same weights as GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf

from bench.kinds.kind import Kind, Value
from bench.kinds.steps import Config, head_size, heads, kv_heads
from duo.models.export import ExportError, add_tokenizer, read_safetensors, write

# llama.cpp's key, and the names that configurations have for it.
_KEYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("context_length", ("max_position_embeddings", "n_positions")),
    ("embedding_length", ("hidden_size", "n_embd")),
    ("block_count", ("num_hidden_layers", "n_layer")),
    ("feed_forward_length", ("intermediate_size", "n_inner")),
    ("attention.layer_norm_rms_epsilon", ("rms_norm_eps", "norm_eps")),
    ("attention.layer_norm_epsilon", ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")),
    ("attention.sliding_window", ("sliding_window",)),
    ("expert_count", ("num_local_experts", "num_experts", "n_routed_experts")),
    ("expert_used_count", ("num_experts_per_tok", "num_experts_per_token")),
    ("expert_group_count", ("n_group",)),
    ("expert_group_used_count", ("topk_group",)),
)

_PLAIN = {"lm_head.weight": "output.weight", "rope_freqs.weight": "rope_freqs.weight"}
"""Not in the tables of architectures whose published models have none."""


def convert(kind: Kind, folder: Path, config: Config, out: Path) -> None:
    """Write the checkpoint in `folder` as GGUF in float32, so that nothing but the runtime differs.

    Raises ExportError if a tensor has no place in llama.cpp's architecture.
    """
    tensors = read_safetensors(folder / "model.safetensors")
    for step in kind.steps:
        tensors = step(tensors, config)
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    writer = gguf.GGUFWriter(None, kind.arch)
    writer.add_name("tiny")  # llama.cpp knows some models by their name, and treats their tokens differently
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for key, value in {**_common(config), **kind.keys(config)}.items():
        _add(writer, f"{kind.arch}.{key}", value)
    add_tokenizer(writer, folder, config["vocab_size"])
    names = _names(kind.arch, int(config["num_hidden_layers"]))
    for name, array in sorted(tensors.items()):
        place = _PLAIN.get(name) or names.get_name(name, (".weight", ".bias"))
        if place is None:
            raise ExportError(f"tensor {name} has no place in llama.cpp's architecture {kind.arch}")
        writer.add_tensor(place, array)
    write(writer, out)


def _names(arch: str, blocks: int) -> gguf.TensorNameMap:
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(known[arch], blocks)


def _common(config: Config) -> dict[str, Value]:
    """What llama.cpp wants to know of nearly every architecture."""

    def found() -> Iterator[tuple[str, Value]]:
        for key, names in _KEYS:
            value = next((config[name] for name in names if config.get(name) is not None), None)
            if value is not None:
                yield key, value

    keys = {"vocab_size": config["vocab_size"], **dict(found())}
    if config.get("num_attention_heads"):
        size = head_size(config)
        keys |= {
            "attention.head_count": heads(config),
            "attention.head_count_kv": kv_heads(config),
            "attention.key_length": size,
            "attention.value_length": size,
        }
    rope: Mapping[str, Any] = config.get("rope_parameters") or {}
    if "sliding_attention" in rope:
        keys["rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    if "rope_theta" in rope:
        keys["rope.freq_base"] = float(rope["rope_theta"])
        keys["rope.dimension_count"] = int(head_size(config) * (rope.get("partial_rotary_factor") or 1.0))
    return keys


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
