"""Writes the weights of a kind as GGUF."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from bench.kinds import vocabulary
from bench.kinds.kind import SPREAD, Kind, Shape, Value
from bench.kinds.steps import Config, Tensors, head_size, heads, kv_heads
from duo.models.export import ExportError, add_tokenizer, read_safetensors, write

# llama.cpp's key, and its names in configurations.
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
"""Tensors that gguf's tables lack, for architectures whose published models have none."""


def convert(kind: Kind, folder: Path, config: Config, out: Path) -> None:
    """Writes the checkpoint in `folder` as GGUF in float32, so that the runtime alone differs.

    Raises ExportError if a tensor has no place in llama.cpp's architecture.
    """
    tensors = read_safetensors(folder / "model.safetensors")
    for step in kind.steps:
        tensors = step(tensors, config)
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    names = _names(kind.arch, int(config["num_hidden_layers"]))
    placed: Tensors = {}
    for name, array in tensors.items():
        place = _PLAIN.get(name) or names.get_name(name, (".weight", ".bias"))
        if place is None:
            raise ExportError(f"tensor {name} has no place in llama.cpp's architecture {kind.arch}")
        placed[place] = array
    _write(kind, {**_common(config), **kind.keys(config)}, placed, folder, out)


def invent(kind: Kind, folder: Path, seed: int, out: Path) -> None:
    """Writes a kind that has no checkpoint. folder: where the tokenizer is."""
    assert kind.shapes is not None
    rng = np.random.default_rng(seed)
    shapes = kind.shapes(vocabulary.SIZE)
    tensors = {name: _random(name, shape, rng).astype(np.float32) for name, shape in shapes.items()}
    _write(kind, {"vocab_size": vocabulary.SIZE, **kind.keys({})}, tensors, folder, out)


def _random(name: str, shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    """A matrix keeps the size of the vector that it multiplies. States remember many tokens."""
    noise: NDArray[np.float64] = rng.normal(size=shape)
    if "_lerp_" in name:
        share: NDArray[np.float64] = 1 / (1 + np.exp(-noise))
        return share
    if name == "output.weight":
        return noise * (SPREAD / math.sqrt(shape[-1]))
    if len(shape) > 1:
        return noise if name == "token_embd.weight" else noise / math.sqrt(shape[-1])
    slow = name.endswith(("decay.weight", "w0.weight"))
    norm = re.search(r"(norm|norm_2|_ln|k_k|k_a)\.weight$", name)
    return 0.2 * noise + (-3.0 if slow else 1.0 if norm else 0.0)


def _write(kind: Kind, keys: Mapping[str, Value], tensors: Tensors, folder: Path, out: Path) -> None:
    writer = gguf.GGUFWriter(None, kind.arch)
    writer.add_name("tiny")  # llama.cpp treats the tokens of some models differently, by their name
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for key, value in keys.items():
        _add(writer, f"{kind.arch}.{key}", value)
    add_tokenizer(writer, folder, vocabulary.SIZE)
    for name, array in sorted(tensors.items()):
        writer.add_tensor(name, array)
    write(writer, out)


def _names(arch: str, blocks: int) -> gguf.TensorNameMap:
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(known[arch], blocks)


def _common(config: Config) -> dict[str, Value]:
    """Keys that llama.cpp wants for nearly every architecture."""

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
