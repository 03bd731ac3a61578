"""A tiny target for heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from duo.engines.transformers.engine import TransformersEngine
from tests.support.reference import Reference, engine_of
from tests.support.tiny_transformers import SHAPE, make_model


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("tiny"), transformers.LlamaConfig(**{**SHAPE, "num_hidden_layers": 3}))


@pytest.fixture(scope="session")
def reference(folder: str) -> Reference:
    return Reference(folder)


@pytest.fixture
def engine(folder: str) -> TransformersEngine:
    return engine_of(folder, slots=3, tree_rows=16, batch=8)
