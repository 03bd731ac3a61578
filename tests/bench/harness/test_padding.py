"""Padded models: as large as asked for, with the logits of the shipped ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.harness.models import Runtime, shipped
from bench.harness.padding import padded, shape
from duo.engines import ROOT, EngineOptions, Row, load
from duo.errors import ModelError
from duo.models import corpus
from duo.models.export import Type, cached_gguf

Which = Literal["target", "draft"]
SMALL: dict[Which, str] = {"target": "32M", "draft": "10M"}
"""These sizes have 2 and 4 times the shipped widths. The draft also gets a layer of zeros."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of their own, so that nothing stays in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def predictions(model: str, runtime: Runtime) -> tuple[str, NDArray[np.float32]]:
    """The vocabulary's fingerprint, and the logits along two conversations that are not in the training data."""
    engine = load(model, runtime, EngineOptions(threads=1, context=256, tree_rows=256, flash_attention="off"))
    logits = []
    for question in corpus.questions(2, seed=99):
        tokens = engine.vocabulary.chat([{"role": "user", "content": question.text}])
        tokens += engine.vocabulary.encode(question.answer)
        engine.truncate(0, 0)
        logits.append(engine.forward([Row(i, 0, t, i - 1 if i else ROOT) for i, t in enumerate(tokens)]).copy())
    fingerprint = engine.vocabulary.fingerprint
    engine.close()
    return fingerprint, np.concatenate(logits)


@pytest.mark.parametrize("which", ["target", "draft"])
@pytest.mark.parametrize(
    ("runtime", "dtype", "tolerance"),
    # Of the largest logit. What multiplies is rounded to 8 bits in the GGUF types, whichever side of an edge it is.
    [
        pytest.param("transformers", "bf16", 1e-5, marks=pytest.mark.slow),
        ("llamacpp", "bf16", 0.01),
        ("llamacpp", "q8_0", 0.03),
    ],
)
def test_a_padded_model_predicts_what_the_shipped_one_does(
    which: Which, runtime: Runtime, dtype: Type, tolerance: float
) -> None:
    original = str(cached_gguf(which, dtype)) if runtime == "llamacpp" else shipped(which, runtime)
    fingerprint, expected = predictions(original, runtime)
    same, logits = predictions(padded(which, SMALL[which], dtype, runtime), runtime)
    assert same == fingerprint
    edge = tolerance * float(np.abs(expected).max())
    assert float(np.abs(logits - expected).max()) < edge
    picks, rows = logits.argmax(-1), np.arange(len(expected))
    # The greedy picks agree wherever it is not a near tie.
    assert np.all(expected.max(-1) - expected[rows, picks] < 2 * edge)
    assert np.mean(picks == expected.argmax(-1)) > 0.98


def test_a_deeper_model_predicts_what_the_shipped_one_does() -> None:
    """Its new layers have another type of weights."""
    fingerprint, expected = predictions(str(cached_gguf("draft", "q8_0")), "llamacpp")
    same, logits = predictions(padded("draft", "12L", "q8_0"), "llamacpp")
    assert same == fingerprint
    assert np.array_equal(logits, expected)


def test_it_is_made_once(cache: Path) -> None:
    first = Path(padded("draft", "10M", "q8_0", "llamacpp"))
    made = first.stat()
    assert first.is_relative_to(cache)
    assert padded("draft", "10M", "q8_0", "llamacpp") == str(first)
    assert first.stat() == made
    assert padded("draft", "20M", "q8_0", "llamacpp") != str(first)
    assert not list(first.parent.glob("*.part*"))


def test_shapes_have_the_size_asked_for_and_usual_proportions() -> None:
    big = shape("target", "1B")
    assert (big.layers, big.hidden, big.inner, big.heads, big.kv_heads) == (16, 2048, 8192, 32, 8)
    assert big.parameters == pytest.approx(1e9, rel=0.02)
    for which, sizes in {"target": ["40M", "0.3B", "3B", "8B"], "draft": ["10M", "0.03B", "60M", "0.1B"]}.items():
        for size in sizes:
            it = shape(which, size)  # type: ignore[arg-type]
            wanted = float(size[:-1]) * (1e9 if size[-1] == "B" else 1e6)
            assert it.parameters == pytest.approx(wanted, rel=0.1), size
            # Blocks of Q8_0 are 32 values long.
            assert not it.hidden % 256 and not it.inner % 32
            assert it.heads * it.head == it.hidden and it.heads == 4 * it.kv_heads
            assert it.hidden <= 192 * it.layers


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ModelError, match="write it like 1B"):
        shape("target", "big")
    with pytest.raises(ModelError, match="cannot be padded to 5M"):
        shape("target", "5M")
    with pytest.raises(ModelError, match="in bf16"):
        padded("draft", "10M", "q8_0", "transformers")
