"""What a kind of model is: its shape in transformers, and what llama.cpp calls and keeps differently."""

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
"""Of a key of a GGUF file. None leaves out a key that the configuration would give."""

SPREAD = 3.0
"""Standard deviation that logits get, roughly. Random text is then neither noise nor one token again and again."""

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
"""Of every kind, under the names that most configurations of transformers have."""


def _no_keys(config: Config) -> dict[str, Value]:
    return {}


@dataclass(frozen=True)
class Kind:
    """A row of the table of kinds.

    model_type: transformers' name; empty where it does not know the model. sizes: what its configuration has beside or
    instead of SIZES. arch: llama.cpp's name; empty where that does not know it. keys: metadata of the GGUF file beside
    what all have, without the architecture's name before it. steps: how the checkpoint's tensors become llama.cpp's.
    shapes: where there is no checkpoint, the tensors of the GGUF file for a vocabulary of so many tokens.
    """

    name: str
    family: Family
    model_type: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    arch: str = ""
    keys: Callable[[Config], Mapping[str, Value]] = _no_keys
    steps: tuple[Step, ...] = ()
    shapes: Callable[[int], Mapping[str, Shape]] | None = None
