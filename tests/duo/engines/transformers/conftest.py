"""Fixtures for the tests of the transformers engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from tests.support.reference import Reference
from tests.support.tiny_transformers import SHAPE, make_model


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("tiny"), transformers.LlamaConfig(**SHAPE))


@pytest.fixture(scope="module")
def reference(folder: str) -> Reference:
    return Reference(folder)
