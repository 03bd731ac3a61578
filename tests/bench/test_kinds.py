"""Tiny random models of many kinds: the same weights in both runtimes, and duo serves them with guesses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.harness.models import Runtime
from bench.kinds import KINDS, Made, make
from bench.kinds.kind import SPREAD
from bench.kinds.plain import of_llamacpp, of_transformers
from bench.kinds.run import COLUMNS, cells, trials
from bench.kinds.trial import Found
from bench.kinds.vocabulary import SIZE
from duo.engines.base import TREES, Rollback

QUICK = ("llama", "qwen35")
"""One with attention alone, and one with states."""
SERVED = (
    "llama", "gemma3", "qwen3moe", "deepseek3", "gpt-oss", "qwen35", "qwen3next", "lfm2", "mamba2", "falcon-h1",
    "nemotron-h",
)  # fmt: skip
"""Kinds of each family, and of each way to roll back. `bench models` tries the others."""
TOKENS = 16


def marked(kinds: Iterable[str]) -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in kinds]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.mark.parametrize("kind", marked(name for name, kind in KINDS.items() if kind.model_type and kind.arch))
def test_both_files_are_the_same_model(kind: str, folder: Path) -> None:
    made = make(kind, folder)
    assert made.folder is not None and made.gguf is not None
    tokens = np.random.default_rng(0).integers(3, SIZE, 80).tolist()
    expected = of_transformers(made.folder, tokens)
    off = np.abs(of_llamacpp(made.gguf, tokens) - expected)
    # llama.cpp looks GELU up in a table of 16 bits.
    assert np.median(off.max(axis=1)) < 2e-3 * SPREAD
    assert off.max() < 1e-2 * SPREAD
    assert SPREAD / 2 < expected.std() < 2 * SPREAD


@pytest.mark.parametrize("kind", marked(SERVED))
@pytest.mark.parametrize("runtime", ["llamacpp", pytest.param("transformers", marks=pytest.mark.slow)])
def test_it_is_served_and_guesses_change_no_text(kind: str, runtime: Runtime, folder: Path) -> None:
    (found,) = trials(kind, [runtime], folder, TOKENS)
    assert found.right, found
    assert found.rollback is not None
    if found.rollback.depth:
        picked, verified = found.accepted["own"]
        assert picked > verified / 2, "the model's own guesses are right"
        picked, verified = found.accepted["other"]
        assert verified > TOKENS and picked < verified / 4, "those of other weights are not"


def test_a_seed_makes_one_model_and_another_seed_another(folder: Path, tmp_path: Path) -> None:
    def weights(made: Made) -> bytes:
        assert made.folder is not None
        return (made.folder / "model.safetensors").read_bytes()

    one = weights(make("llama", folder))
    assert weights(make("llama", tmp_path)) == one
    assert weights(make("llama", tmp_path, seed=1)) != one


def test_a_row_of_the_table_says_what_was_found() -> None:
    found = Found("llama", "llamacpp", rollback=TREES, error=0.0012)
    found.same = {"generate": "same", "greedy, own drafts": "same", "sampled, own drafts": "near tie at 7 (0.0003)"}
    found.accepted = {"own": (30, 31), "other": (1, 90)}
    row = cells(found)
    assert len(row) == len(COLUMNS)
    assert row[3:7] == ["trees", "1.2e-03", "same", "sampled, own drafts: near tie at 7 (0.0003)"]
    assert row[7:9] == ["30 of 31", "1 of 90"]
    assert found.right
    found.same["greedy, other drafts"] = "differs at 3 (1.1)"
    assert not found.right and "differs at 3" in cells(found)[6]
    found.rollback = Rollback(trees=False, depth=8, replay=True)
    assert cells(found)[3] == "chains of 8, by replay"
    refused, failed = Found("llama", "llamacpp", refused="no"), Found("llama", "llamacpp", failed="OSError: no")
    assert cells(refused)[3] == "refused: no" and not refused.right
    assert cells(failed)[3] == "failed: OSError: no" and not failed.right
