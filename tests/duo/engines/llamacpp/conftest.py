"""Tiny models for the tests of llama.cpp's engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from duo.engines.llamacpp.engine import LlamaCppEngine
from tests.support.tiny_gguf import attention, decoder_tensors, open_engine, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    return write(folder / "Tiny.gguf", "llama", decoder_tensors(), attention)


@pytest.fixture
def engine(plain: Path) -> Iterator[LlamaCppEngine]:
    engine = open_engine(plain, context=128, slots=2, tree_rows=64, batch=32)
    yield engine
    engine.close()
