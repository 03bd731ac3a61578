"""How the tensors of a Hugging Face checkpoint become llama.cpp's.

Both have the same weights under different names, and some in different forms. For example, one has a decay and the
other its logarithm; the order of heads differs; experts are separate or stacked. llama.cpp's conversion scripts show
its forms. A *step* is a function from tensors to tensors. A few steps convert a kind of model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from duo.models.export import Array, halves_to_pairs

Config = Mapping[str, Any]
"""A model's configuration as transformers writes it, with every default."""
Tensors = dict[str, Array]
Step = Callable[[Tensors, Config], Tensors]


def each(pattern: str, change: Callable[[Array, Config], Array]) -> Step:
    """A step that changes every tensor whose name ends as the pattern says."""
    ending = re.compile(f"(?:{pattern})$")
    return lambda tensors, config: {
        name: change(array, config) if ending.search(name) else array for name, array in tensors.items()
    }


def split(pattern: str, parts: Callable[[Array, Config], Mapping[str, Array]]) -> Step:
    """A step that replaces every tensor whose name ends as the pattern says.

    parts: gives the new endings, and their tensors.
    """
    ending = re.compile(f"(?:{pattern})$")

    def step(tensors: Tensors, config: Config) -> Tensors:
        changed: Tensors = {}
        for name, array in tensors.items():
            if found := ending.search(name):
                changed |= {name[: found.start()] + new: part for new, part in parts(array, config).items()}
            else:
                changed[name] = array
        return changed

    return step


def rename(pattern: str, replacement: str) -> Step:
    """A step that renames tensors by a regular expression."""
    return lambda tensors, config: {re.sub(pattern, replacement, name): array for name, array in tensors.items()}


def stack_experts(tensors: Tensors, config: Config) -> Tensors:
    """Stacks the matrices of all experts of a layer into one tensor of shape [experts, rows, columns]."""
    stacks: dict[str, dict[int, Array]] = {}
    others: Tensors = {}
    for name, array in tensors.items():
        if found := re.fullmatch(r"(.*\.experts\.)(\d+)\.(.*)", name):
            stacks.setdefault(found[1] + found[3], {})[int(found[2])] = array
        else:
            others[name] = array
    return others | {name: np.stack([stack[i] for i in sorted(stack)]) for name, stack in stacks.items()}


def halves(array: Array) -> tuple[Array, Array]:
    """The upper and the lower half of a matrix's rows, for one matrix or for a stack."""
    first, second = np.split(array, 2, axis=-2)
    return np.ascontiguousarray(first), np.ascontiguousarray(second)


def heads(config: Config) -> int:
    return int(config["num_attention_heads"])


def kv_heads(config: Config) -> int:
    return int(config.get("num_key_value_heads") or heads(config))


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // heads(config))


def rotary_pairs(tensors: Tensors, config: Config) -> Tensors:
    """Reorders heads: llama.cpp rotates pairs of neighbours, transformers pairs from two halves."""
    q = each(r"q_proj\.(weight|bias)", lambda array, config: halves_to_pairs(array, heads(config)))
    k = each(r"k_proj\.(weight|bias)", lambda array, config: halves_to_pairs(array, kv_heads(config)))
    return k(q(tensors, config), config)


plus_one = each(r"norm\.weight", lambda array, config: array + 1)
"""These norms multiply by 1 + w."""

decay = each(r"\.A_log", lambda array, config: -np.exp(array))
"""The checkpoint has the logarithm of a state's decay, and llama.cpp the decay."""

flat_convolution = each(r"conv(1d)?\.weight", lambda array, config: array.squeeze(1))
"""From [channels, 1, width] to [channels, width]."""

time_bias = rename(r"\.dt_bias$", ".dt_proj.bias")

column = each(r"\.A_log|\.D", lambda array, config: array.reshape(-1, 1))
"""Mamba-2 has one number per head. llama.cpp has them as a column."""
