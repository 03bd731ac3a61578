"""A kind of model: its shape in transformers, and how it becomes llama.cpp's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.kinds.steps import Config, Step

Family = Literal[
    "attention",
    "sliding window",
    "MoE",
    "MLA",
    "sinks",
    "gated delta net",
    "short convolution",
    "Mamba",
    "Mamba-2",
    "RWKV",
]

Value = int | float | bool | str | list[int] | list[bool] | list[float] | None
"""The value of a key in a GGUF file. None removes a key that the configuration gives."""

SPREAD = 3.0
"""The standard deviation of logits, roughly. Text is then neither noise nor one repeated token."""

Shape = tuple[int, ...]

SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
"""Sizes of every kind, under the names that most configurations of transformers use."""


def _no_keys(config: Config) -> dict[str, Value]:
    return {}


@dataclass(frozen=True)
class Kind:
    """A row of the table of kinds.

    model_type: transformers' name; empty: it does not know the model. sizes: changes and additions to SIZES.
    arch: llama.cpp's name; empty: it does not know the model. keys: more metadata of the GGUF file, without the
    architecture's name in front. steps: how the checkpoint's tensors become llama.cpp's. shapes: for a kind without a
    checkpoint, the GGUF file's tensors by the size of the vocabulary.
    """

    name: str
    family: Family
    model_type: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    arch: str = ""
    keys: Callable[[Config], Mapping[str, Value]] = _no_keys
    steps: tuple[Step, ...] = ()
    shapes: Callable[[int], Mapping[str, Shape]] | None = None
