"""MLP speculators, against a plain computation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads import load
from tests.support import tiny_heads
from tests.support.reference import Reference
from tests.support.tiny_transformers import LOGITS
from tests.support.told_heads import goes_right, states_of


@pytest.mark.parametrize(("inner", "tied", "scales"), [(24, False, False), (24, True, True), (32, False, True)])
def test_guesses(
    inner: int, tied: bool, scales: bool, engine: TransformersEngine, reference: Reference, tmp_path: Path
) -> None:
    path = tiny_heads.mlp(tmp_path, 32, LOGITS, inner, tied, scales)
    weights = load_file(tmp_path / "model.safetensors")
    share = 0.5 ** (0.5 / 3)

    def normal(state: Tensor) -> Tensor:
        return state / torch.sqrt((state * state).mean() + 1e-6)

    def plain(tokens: Sequence[int], known: int) -> Tensor:
        state = states_of(reference, tokens[:known])[-2]
        if scales:
            state = normal(state) / math.sqrt(2)
        for step, token in enumerate(tokens[known - 1 :]):
            n = 0 if tied else step
            state = weights[f"speculator.proj.{min(step, 1) if tied else step}.weight"] @ state * share
            embedding = weights[f"speculator.emb.{n}.weight"][token]
            state = state + embedding * math.sqrt(1 - share**2) * math.sqrt(inner / 2)
            state = normal(state) * weights[f"speculator.ln.{n}.weight"] + weights[f"speculator.ln.{n}.bias"]
            state = state * 0.5 * (1 + torch.erf(state / math.sqrt(2)))
        logits: Tensor = weights[f"speculator.head.{n}.weight"] @ state
        return logits

    head = load.load(engine, path)
    assert head.depth == 3
    goes_right(engine, head, 3, plain)
