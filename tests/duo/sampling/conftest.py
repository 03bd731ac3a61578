"""Both models' engines, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.harness.models import shipped
from duo.engines import Engine, EngineOptions, Vocabulary, load

SLOTS = 8


@pytest.fixture(scope="module")
def target() -> Iterator[Engine]:
    engine = load(shipped("target", "transformers"), "transformers", EngineOptions(threads=1, context=512, slots=SLOTS))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def draft() -> Iterator[Engine]:
    engine = load(shipped("draft", "llamacpp"), "llamacpp", EngineOptions(threads=1, context=512))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def vocabulary(target: Engine) -> Vocabulary:
    return target.vocabulary
