"""The model of `bench hybrid` is made and can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.compare import hybrid
from bench.kinds import KINDS
from duo.engines import EngineOptions, load


def test_the_model_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid, "cache", lambda: tmp_path)
    monkeypatch.setattr(hybrid, "SIZES", {})
    monkeypatch.setattr(hybrid, "LAYERS", KINDS["qwen35"].sizes["layer_types"])
    path = hybrid.model()
    assert list(tmp_path.iterdir()) == [path], "nothing else is left"
    assert hybrid.model() == path
    engine = load(str(path), "llamacpp", EngineOptions(threads=1, context=64))
    assert engine.vocabulary.size and not engine.rollback.trees
    engine.close()
