"""Slots of the engine for trees, saved and restored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from duo.engines import Logits, Row
from duo.engines.llamacpp import engine as engine_module
from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.errors import ContextError
from tests.support import gguf_kinds
from tests.support.llamacpp_books import assert_books_agree
from tests.support.tiny_gguf import SIZE, WINDOW, decoder_tensors, open_engine, windowed, write

TOKENS = [(7 * i + 3) % SIZE for i in range(60)]


def with_window(folder: Path) -> Path:
    tensors = decoder_tensors(("post_attention_norm", "post_ffw_norm"))
    del tensors["output.weight"]
    return write(folder / "window.gguf", "gemma2", tensors, windowed)


@pytest.fixture(scope="module", params=["all", "window"])
def path(request: pytest.FixtureRequest, folder: Path, plain: Path) -> Path:
    return plain if request.param == "all" else with_window(folder)


@pytest.fixture
def two(path: Path) -> Iterator[tuple[LlamaCppEngine, LlamaCppEngine]]:
    """Engines as of two processes."""
    engines = [open_engine(path, context=128, slots=2, tree_rows=16, batch=32) for _ in range(2)]
    yield engines[0], engines[1]
    for engine in engines:
        engine.close()


def next_logits(engine: LlamaCppEngine, slot: int) -> Logits:
    found: Logits = engine.forward([Row(0, slot, 5)])[0].copy()
    engine.commit(slot, ())
    return found


def test_another_process_goes_on_where_the_first_one_ended(two: tuple[LlamaCppEngine, LlamaCppEngine]) -> None:
    first, second = two
    first.extend(0, TOKENS)
    copy = first.save(0)
    assert copy.length == 60 and copy.bytes > 0
    second.extend(1, TOKENS[30:])
    second.extend(0, TOKENS[:7])
    assert second.restore(1, copy, TOKENS) == 60
    assert second.layout == first.layout
    # A window must be whole wherever the slot is cut.
    for length in (60, 60 - WINDOW, 41, 9, 1):
        assert first.truncate(0, length) == second.truncate(1, length) == length
        np.testing.assert_allclose(next_logits(first, 0), next_logits(second, 1), atol=2e-3)
        assert_books_agree(second)
    second.restore(1, first.save(1), [])
    assert second.length(1) == 0 and second.length(0) == 7
    assert_books_agree(second)


def test_a_slot_that_was_put_aside(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "IDLE_CALLS", 0)
    monkeypatch.setattr(engine_module, "TIDY_EVERY", 1)
    engine = open_engine(plain, context=128, slots=2, tree_rows=16, batch=32)
    engine.extend(0, TOKENS)
    for _ in range(3):
        engine.extend(1, [4])
    assert engine.trees[0].aside is not None
    copy = engine.save(0)
    engine.restore(1, copy, TOKENS)
    np.testing.assert_allclose(next_logits(engine, 0), next_logits(engine, 1), atol=2e-3)
    engine.close()


def test_what_is_no_copy_is_refused(two: tuple[LlamaCppEngine, LlamaCppEngine]) -> None:
    first, second = two
    first.extend(0, TOKENS)
    copy = first.save(0)
    name = list(copy.arrays)[-1]
    bad = [
        {**copy.arrays, name: copy.arrays[name][:-8]},
        {**copy.arrays, name: np.zeros(16, dtype=np.uint8)},
        {**copy.arrays, name: np.zeros(0, dtype=np.uint8)},
        {key: value for key, value in copy.arrays.items() if key != name},
    ]
    for arrays in bad:
        second.extend(0, [5, 6])
        with pytest.raises(ContextError, match="does not take this copy"):
            second.restore(0, copy._replace(arrays=arrays), TOKENS)
        assert second.length(0) == 0
        assert_books_agree(second)
    with pytest.raises(ContextError, match="is not of these"):
        second.restore(0, copy, TOKENS[:-1])
    with pytest.raises(ContextError, match="do not fit the context"):
        second.restore(0, copy._replace(length=200), [1] * 200)
    assert second.restore(0, copy, TOKENS) == 60


def test_with_the_same_bits_a_window_forbids_copies_and_says_what_helps(folder: Path) -> None:
    engine = gguf_kinds.open_engine(with_window(folder), context=64, slots=2, chains=True)
    assert "--exact off" in engine.unsavable
    engine.extend(0, [1, 2, 3])
    with pytest.raises(ContextError, match="--exact off"):
        engine.save(0)
    engine.close()
