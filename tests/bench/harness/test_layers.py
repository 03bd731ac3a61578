"""Models with fewer or more layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.harness.layers import with_layers
from duo.engines import ROOT, Logits, Row
from duo.errors import ModelError
from tests.support.tiny_gguf import attention, decoder_tensors, open_engine, write


def last_logits(path: Path) -> Logits:
    engine = open_engine(path, context=64, tree_rows=32, batch=32)
    engine.extend(0, [5, 6, 7])
    logits: Logits = engine.forward([Row(0, 0, 8, ROOT)])[0].copy()
    engine.close()
    return logits


def test_layers_are_left_out_and_added(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", "llama", decoder_tensors(), attention)
    with_layers(whole, tmp_path / "again.gguf", [0, 1])
    with_layers(whole, tmp_path / "longer.gguf", [0, 1], 3)
    with_layers(whole, tmp_path / "cut.gguf", [1])
    expected = last_logits(whole)
    assert np.array_equal(last_logits(tmp_path / "again.gguf"), expected)
    assert np.allclose(last_logits(tmp_path / "longer.gguf"), expected, atol=1e-3)
    assert not np.allclose(last_logits(tmp_path / "cut.gguf"), expected, atol=0.1)


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", "llama", decoder_tensors(), attention)
    with pytest.raises(ModelError, match=r"layers 0 to 1, and not \[2\]"):
        with_layers(whole, tmp_path / "out.gguf", [2])
