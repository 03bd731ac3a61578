"""Medusa heads of both versions, against a plain computation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads import load
from duo.errors import ModelError
from tests.support import tiny_heads
from tests.support.reference import Reference
from tests.support.tiny_transformers import LOGITS
from tests.support.told_heads import goes_right, states_of


@pytest.mark.parametrize(
    ("layers", "own", "prefix"), [(1, True, ""), (2, True, ""), (1, False, ""), (1, False, "medusa_head.")]
)
def test_guesses(
    layers: int, own: bool, prefix: str, engine: TransformersEngine, reference: Reference, tmp_path: Path
) -> None:
    path = tiny_heads.medusa(tmp_path, 32, LOGITS, 3, layers, own, prefix)
    weights = load_file(tmp_path / "medusa_lm_head.safetensors")

    def plain(tokens: Sequence[int], known: int) -> Tensor:
        number = len(tokens) - known
        x = states_of(reference, tokens[:known])[-2].clone()
        for j in range(layers):
            y = weights[f"{prefix}{number}.{j}.linear.weight"] @ x + weights[f"{prefix}{number}.{j}.linear.bias"]
            x = x + y * torch.sigmoid(y)
        project = weights[f"{number}.{layers}.weight"] if own else reference.model.lm_head.weight.detach()
        return project @ x

    head = load.load(engine, path)
    assert head.depth == 3
    goes_right(engine, head, 3, plain)


def test_pickled_weights(engine: TransformersEngine, tmp_path: Path) -> None:
    path = tiny_heads.medusa(tmp_path, 32, LOGITS, 1)
    (tmp_path / "medusa_lm_head.safetensors").rename(tmp_path / "medusa_lm_head.pt")
    with pytest.raises(ModelError, match=r"pickled ones can run code and are not read"):
        load.load(engine, path)


def test_a_head_of_another_target(engine: TransformersEngine, tmp_path: Path) -> None:
    path = tiny_heads.medusa(tmp_path, 16, LOGITS, 1)
    with pytest.raises(ModelError, match=r"hidden states of 16 numbers, and .* has 32"):
        load.load(engine, path)
