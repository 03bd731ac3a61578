"""Layers for multi-token prediction in a model's own checkpoint, against plain computations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads import load
from tests.support.tiny_heads import rms
from tests.support.tiny_mtp import input_of, make, mtp_weights, plain_of
from tests.support.told_heads import goes_right, states_of


def test_guesses_of_qwen35(tmp_path: Path) -> None:
    engine, reference = make("qwen35", tmp_path)
    head = load.find(engine)
    assert head is not None
    goes_right(engine, head, 4, plain_of(tmp_path, reference))


@pytest.mark.parametrize("split", [False, True])
def test_guesses_of_a_model_with_experts(split: bool, tmp_path: Path) -> None:
    engine, reference = make("qwen3next", tmp_path, split)
    head = load.find(engine)
    assert head is not None
    layer: Any = reference.model.model.layers[3]
    w = mtp_weights(tmp_path)
    weights = {name.removeprefix("layers.0."): tensor for name, tensor in w.items() if name.startswith("layers.0.")}
    if split:
        for kind, parts in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            stacked = [
                torch.cat([weights.pop(f"mlp.experts.{i}.{part}_proj.weight") for part in parts]) for i in range(4)
            ]
            weights[f"mlp.experts.{kind}"] = torch.stack(stacked)
    mine: Any = type(layer)(reference.model.config, 3)
    mine.load_state_dict(weights)

    def plain(tokens: Sequence[int], known: int) -> Tensor:
        """The library's own layer over the whole text, again and again."""
        states = list(states_of(reference, tokens[: known - 1]))
        while True:
            rows = [input_of(w, reference, state, tokens[at + 1]) for at, state in enumerate(states)]
            at = torch.arange(1, len(rows) + 1)[None]
            cos_sin = reference.model.model.rotary_emb(rows[0], at)
            mask = torch.full((len(rows), len(rows)), float("-inf")).triu(1)[None, None]
            with torch.inference_mode():
                out = mine(torch.stack(rows)[None], position_embeddings=cos_sin, attention_mask=mask)
            own = rms(out[0, -1], 1 + w["norm.weight"])
            if len(states) == len(tokens) - 1:
                logits: Tensor = reference.model.lm_head.weight.detach() @ own
                return logits
            states.append(own)

    goes_right(engine, head, 3, plain)


def test_a_model_without_such_a_layer(engine: TransformersEngine) -> None:
    assert load.find(engine) is None
