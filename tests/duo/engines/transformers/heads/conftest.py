"""A tiny target for heads."""

from __future__ import annotations

import pytest
import transformers

from duo.engines.transformers.engine import TransformersEngine
from tests.support.reference import engine_of
from tests.support.tiny_transformers import SHAPE, make_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("tiny"), transformers.LlamaConfig(**{**SHAPE, "num_hidden_layers": 3}))


@pytest.fixture
def engine(folder: str) -> TransformersEngine:
    return engine_of(folder, slots=3, tree_rows=16, batch=8)
