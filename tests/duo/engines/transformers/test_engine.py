"""The transformers engine against plain full forward passes of the same tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bench.harness.processes import wait_for
from duo.engines.base import ROOT, InterruptedForwardError, Row
from duo.engines.transformers.runner import ModelRunner
from duo.errors import ContextError
from tests.support.interrupting import interrupting
from tests.support.reference import Mirror, Reference, engine_of, interleave, places_used
from tests.support.tiny_transformers import ARCHITECTURES, LOGITS, SHAPE, make_model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, ARCHITECTURES[name]())
    engine = engine_of(folder, slots=2, tree_rows=40, batch=8)
    mirror = Mirror(engine, Reference(folder), slots=2, seed=1)
    mirror.extend(0, 19)  # more than a batch and more than a window
    mirror.extend(1, 5)
    for _ in range(3):
        mirror.forward([0, 1], 8)
    mirror.commit(0, rest_share=0.7)
    mirror.forward([0, 1], 6)
    mirror.engine.commit(1, ())
    for id in mirror.of(1):
        del mirror.rows[id]
    mirror.forward([0, 1], 4, {1: 4})
    mirror.check()
    assert engine.vocabulary.size == LOGITS


def test_chain_matches_one_pass_at_every_position(folder: str, reference: Reference) -> None:
    engine = engine_of(folder)
    tokens = [(7 * i + 3) % LOGITS for i in range(30)]
    engine.extend(0, tokens[:10])
    got = engine.forward([Row(i, 0, tokens[i], i - 1 if i > 10 else ROOT) for i in range(10, 30)])
    with torch.inference_mode():
        wanted = reference.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, 10:].numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_random_interleavings(seed: int, folder: str, reference: Reference) -> None:
    interleave(folder, reference, seed, apart=True)


@pytest.mark.parametrize(("name", "apart"), [("gemma2", False), ("mistral", True), ("gemma3", True), ("gpt2", True)])
def test_random_interleavings_with_windows_and_without_lanes(name: str, apart: bool, tmp_path: Path) -> None:
    folder = make_model(tmp_path, ARCHITECTURES[name]())
    interleave(folder, Reference(folder), 7, apart)


def test_a_row_is_the_same_beside_other_slots(tmp_path: Path) -> None:
    """A row is decoded greedily alone, and beside rows of seven slots with other lengths. The text is the same, and
    logits differ only by rounding."""
    folder = make_model(tmp_path, transformers.LlamaConfig(**{**SHAPE, "max_position_embeddings": 256}))
    prompts = [[(7 * slot + 5 * at) % LOGITS for at in range(20 + 15 * slot)] for slot in range(8)]

    def decode(beside: int) -> Any:
        engine = engine_of(folder, slots=8, batch=64)
        for slot in range(1 + beside):
            engine.extend(slot, prompts[slot][:-1])
        last = [prompt[-1] for prompt in prompts[: 1 + beside]]
        seen = []
        for _ in range(24):
            logits = engine.forward([Row(slot, slot, token) for slot, token in enumerate(last)])
            seen.append(logits[0].copy())
            last = [int(row.argmax()) for row in logits]
            for slot in range(1 + beside):
                engine.commit(slot, [slot])
        return np.stack(seen)

    alone, beside = decode(0), decode(7)
    assert alone.argmax(1).tolist() == beside.argmax(1).tolist()
    np.testing.assert_allclose(beside, alone, atol=1e-4)


def test_memory_of_idle_lanes_is_not_touched(tmp_path: Path) -> None:
    """The arena copies only what is in use when it grows. Memory that was never written is still zero."""
    folder = make_model(tmp_path, transformers.LlamaConfig(**{**SHAPE, "max_position_embeddings": 1000}))
    engine, reference = engine_of(folder, slots=4, batch=256), Reference(folder)
    tokens = [(11 * i) % LOGITS for i in range(700)]
    engine.extend(2, tokens[:30])
    engine.extend(0, tokens[:699])  # grows while lane 2 is in use
    got = engine.forward([Row(0, 0, tokens[699]), Row(1, 2, tokens[30])])
    np.testing.assert_allclose(got[0], reference.logits(tokens), atol=1e-4)
    np.testing.assert_allclose(got[1], reference.logits(tokens[:31]), atol=1e-4)
    layers: list[Any] = engine.cache.layers
    for layer in layers:
        assert layer.keys is not None and layer.keys.shape[0] == 4 and layer.keys.shape[2] >= 700
        assert not layer.keys[1].any() and not layer.keys[3].any()
    engine.share(0, 3, 600)
    got = engine.forward([Row(2, 3, tokens[600])])
    np.testing.assert_allclose(got[0], reference.logits(tokens[:601]), atol=1e-4)


def test_what_cannot_be_shared(folder: str) -> None:
    engine = engine_of(folder, slots=2)
    engine.extend(0, [3, 4])
    for source, target, length in ((0, 1, 3), (0, 1, -1), (1, 0, 1), (0, 2, 1), (2, 0, 0)):
        with pytest.raises(ValueError, match="slot"):
            engine.share(source, target, length)
    assert engine.length(0) == 2 and engine.slots == 2


def test_other_slots_change_nothing(folder: str) -> None:
    alone = engine_of(folder, slots=2, batch=4)
    alone.extend(0, [5, 6, 7])
    wanted = alone.forward([Row(0, 0, 8)])
    crowded = engine_of(folder, slots=2, batch=4)
    crowded.extend(1, list(range(40, 60)))
    crowded.forward([Row(9, 1, 99)])
    crowded.extend(0, [5, 6, 7])
    got = crowded.forward([Row(1, 1, 30, 9), Row(0, 0, 8), Row(2, 1, 31)])
    np.testing.assert_allclose(got[1], wanted[0], atol=1e-5)


def test_arena_grows_and_places_are_reused(tmp_path: Path) -> None:
    folder = make_model(tmp_path, transformers.LlamaConfig(**{**SHAPE, "max_position_embeddings": 1000}))
    engine, reference = engine_of(folder, batch=256), Reference(folder)
    tokens = [(11 * i) % LOGITS for i in range(700)]
    engine.extend(0, tokens[:300])
    first = engine.forward([Row(0, 0, tokens[300])])
    np.testing.assert_allclose(first[0], reference.logits(tokens[:301]), atol=1e-4)
    engine.commit(0, [0])
    engine.extend(0, tokens[301:699])
    last = engine.forward([Row(0, 0, tokens[699])])
    np.testing.assert_allclose(last[0], reference.logits(tokens), atol=1e-4)
    engine.truncate(0, 100)
    again = engine.forward([Row(0, 0, tokens[100])])
    np.testing.assert_allclose(again[0], reference.logits(tokens[:101]), atol=1e-4)
    engine.close()


def test_half_precision(folder: str, reference: Reference) -> None:
    engine = engine_of(folder, dtype="bfloat16")
    engine.extend(0, [5, 6, 7])
    got = engine.forward([Row(0, 0, 8), Row(1, 0, 9), Row(2, 0, 10, 1)])
    wanted = np.stack(
        [reference.logits([5, 6, 7, 8]), reference.logits([5, 6, 7, 9]), reference.logits([5, 6, 7, 9, 10])]
    )
    assert got.dtype == np.float32
    assert float(np.abs(got - wanted).max()) < 0.3 < float(wanted.std())


def test_context_errors_leave_everything_as_it_was(folder: str, reference: Reference) -> None:
    engine = engine_of(folder, context=8, tree_rows=3, batch=16)
    assert engine.context == 8 and engine.batch == 16
    with pytest.raises(ContextError, match="9 tokens do not fit the context of 8"):
        engine.extend(0, range(9))
    engine.extend(0, [3, 4, 5, 6, 7, 8])
    with pytest.raises(ContextError, match="context of 8"):
        engine.forward([Row(0, 0, 1), Row(1, 0, 1, 0), Row(2, 0, 1, 1)])
    with pytest.raises(ContextError, match="no room for 6"):
        engine.forward([Row(i, 0, i) for i in range(6)])
    assert places_used(engine) == engine.length(0) == 6
    rows = [Row(i, 0, i) for i in range(5)]
    np.testing.assert_allclose(engine.forward(rows)[4], reference.logits([3, 4, 5, 6, 7, 8, 4]), atol=1e-4)
    with pytest.raises(ContextError, match="no room"):
        engine.forward([Row(5, 0, 5)])
    engine.extend(0, [9, 10])  # forgets the rows, so there is room
    assert places_used(engine) == engine.length(0) == 8


def test_no_room_beside_the_rows_of_other_slots(tmp_path: Path) -> None:
    folder = make_model(tmp_path, ARCHITECTURES["gemma2"]())  # whose slots share a lane
    engine = engine_of(folder, context=8, slots=2, tree_rows=0, batch=16)
    engine.forward([Row(i, 1, i) for i in range(10)])
    with pytest.raises(ContextError, match="other slots"):
        engine.extend(0, range(7))
    engine.extend(0, range(6))
    assert places_used(engine) == 16


def test_a_fault_of_the_model_leaves_everything_as_it_was(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(folder)
    engine.extend(0, [3, 4, 5])

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "run", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.forward([Row(0, 0, 6)])
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.extend(0, [6])
    assert places_used(engine) == engine.length(0) == 3
    engine.forward([Row(0, 0, 6)])


def test_a_forward_pass_can_be_interrupted_and_leaves_no_trace(folder: str, reference: Reference) -> None:
    engine = engine_of(folder)
    engine.extend(0, [3, 4, 5])
    engine.interrupt()  # while nothing is under way: nothing happens
    with interrupting(engine):

        def given_up() -> bool:
            try:
                engine.forward([Row(0, 0, 6), Row(1, 0, 7, 0)])
            except InterruptedForwardError:
                assert places_used(engine) == engine.length(0) == 3
                return True
            engine.commit(0, ())
            return False

        wait_for(given_up, "a forward pass that is given up")
    np.testing.assert_allclose(engine.forward([Row(0, 0, 6)])[0], reference.logits([3, 4, 5, 6]), atol=1e-4)
    engine.interrupt()
    engine.extend(0, [8, 9])


@pytest.mark.parametrize(
    "rows",
    [
        [Row(0, 0, 5), Row(0, 0, 6)],
        [Row(50, 0, 5)],
        [Row(-1, 0, 5)],
        [Row(0, 0, LOGITS)],
        [Row(0, 0, -1)],
        [Row(0, 0, 5, parent=3)],
        [Row(1, 0, 5, parent=0), Row(0, 0, 5)],
        [Row(0, 0, 5, parent=60)],
        [Row(0, 2, 5)],
        [Row(i, 0, 5) for i in range(9)],
    ],
)
def test_invalid_rows(rows: list[Row], folder: str) -> None:
    engine = engine_of(folder, slots=2, batch=8)
    engine.forward([Row(50, 0, 3), Row(60, 1, 3)])
    with pytest.raises(ValueError, match=r"row|token|slot"):
        engine.forward(rows)
    assert places_used(engine) == 2


def test_invalid_keep_truncate_and_extend(folder: str) -> None:
    engine = engine_of(folder, slots=2)
    engine.extend(0, [3])
    engine.forward([Row(0, 0, 4), Row(1, 0, 5, 0), Row(2, 0, 6, 1), Row(3, 1, 7)])
    for path in ([1], [0, 2], [3], [9], [0, 0]):
        with pytest.raises(ValueError, match="does not continue the path"):
            engine.commit(0, path)
    for path, rest in (([0], [2]), ([0], [0]), ([0], [3]), ([], [1]), ([0, 1], [9])):
        with pytest.raises(ValueError, match="does not hang"):
            engine.commit(0, path, rest)
    for length in (-1, 2):
        with pytest.raises(ValueError, match="cannot be cut"):
            engine.truncate(0, length)
    for token in (-1, LOGITS):
        with pytest.raises(ValueError, match="token"):
            engine.extend(0, [3, token])
    with pytest.raises(ValueError, match="slot"):
        engine.length(-1)
    assert places_used(engine) == 5
    assert engine.forward([]).shape == (0, LOGITS)


def test_what_is_shared_after_guesses_were_accepted_is_in_the_order_of_the_tokens(
    folder: str, reference: Reference
) -> None:
    """Rejected rows leave holes that later rows fill. Then places no longer rise along the tokens."""
    engine = engine_of(folder, slots=2, context=64, tree_rows=16, batch=16)
    tokens = [(3 + 5 * at) % LOGITS for at in range(10)]
    engine.extend(0, tokens)
    engine.forward([Row(0, 0, 4), *(Row(at, 0, 4 + at, 0) for at in range(1, 5))])
    engine.commit(0, [0, 4])
    engine.forward([Row(0, 0, 5), Row(1, 0, 6, 0), Row(2, 0, 7, 0)])
    engine.commit(0, [0, 2])
    tokens += [4, 8, 5, 7]
    places = engine.sequences[0].places[:14].tolist()
    assert places != sorted(places), "or this tests nothing"
    for length in (14, 13, 12):
        engine.share(0, 1, length)
        got = engine.forward([Row(0, 1, 9)])
        np.testing.assert_allclose(got[0], reference.logits([*tokens[:length], 9]), atol=1e-4)
        engine.commit(1, [])
