"""The llama.cpp engine, on tiny models with random weights that are made here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.harness.processes import wait_for
from duo.engines import ROOT, Logits, Row
from duo.engines.base import InterruptedForwardError
from duo.engines.llamacpp import engine as llamacpp
from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.errors import ContextError, ModelError
from tests.support import mirror
from tests.support.interrupting import interrupting
from tests.support.llamacpp_books import assert_books_agree
from tests.support.mirror import TreeMirror, Truth
from tests.support.tiny_gguf import SIZE, decoder_tensors, open_engine, windowed, write

TOLERANCE = 2e-3
"""Rounding keys and values to 16 bits moved logits of these models by at most 0.0007 in 1,920 rows. One wrong
token anywhere among sixty moves them by 0.2 or more."""
FLASH_TOLERANCE = 2e-2
"""Flash attention sums values in 16 bits, in the order of the cells. It moved logits by at most 0.012 in 1,280 rows."""


@pytest.fixture(scope="module")
def sliding(folder: Path) -> Path:
    """In this model every other layer sees only the last few tokens."""
    tensors = decoder_tensors(("post_attention_norm", "post_ffw_norm"))
    del tensors["output.weight"]
    return write(folder / "sliding.gguf", "gemma2", tensors, windowed)


def open_truth(path: Path, **options: Any) -> Truth:
    tolerance = FLASH_TOLERANCE if options.get("flash_attention") == "on" else TOLERANCE
    return Truth(open_engine(path, context=256, tree_rows=1, batch=64, **options), tolerance)


@pytest.fixture(scope="module")
def truth(plain: Path) -> Iterator[Truth]:
    truth = open_truth(plain)
    yield truth
    truth.engine.close()


def same(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    mirror.same(logits, expected, TOLERANCE)


def fill(engine: LlamaCppEngine, calls: Sequence[Sequence[Row]]) -> None:
    for rows in calls:
        engine.forward(rows)


def mirrored(engine: LlamaCppEngine, truth: Truth, seed: int) -> TreeMirror:
    return TreeMirror(engine, truth, seed, check=lambda: assert_books_agree(engine))


def assert_all_free(engine: LlamaCppEngine, slots: int) -> None:
    """With empty slots, nothing is left in llama.cpp's memory, and the engine can be filled again."""
    for slot in range(slots):
        engine.truncate(slot, 0)
    assert_books_agree(engine)
    memory = engine.memory
    assert all(llama_cpp.llama_memory_seq_pos_max(memory, seq) == -1 for seq in range(len(engine.pool.committed)))
    for slot in range(slots):
        engine.extend(slot, [1] * (engine.context - 1))
    rows = [Row(i, i % slots, i % SIZE) for i in range(engine.capacity)]
    for first in range(0, len(rows), engine.batch):
        engine.forward(rows[first : first + engine.batch])
    with pytest.raises(ContextError):
        engine.forward([Row(len(rows), 0, 0)])
    for slot in range(slots):
        engine.truncate(slot, 0)
        engine.extend(slot, [2] * engine.context)
        engine.truncate(slot, 0)


def test_rows_of_one_call_may_form_a_tree(engine: LlamaCppEngine, truth: Truth) -> None:
    prompt = [3, 1, 4, 1, 5]
    engine.extend(0, prompt)
    rows = [Row(10, 0, 50), Row(11, 0, 51, 10), Row(12, 0, 52, 10), Row(13, 0, 53), Row(14, 0, 54, 12)]
    logits = engine.forward(rows)
    for i, path in enumerate(([50], [50, 51], [50, 52], [53], [50, 52, 54])):
        same(logits[i], truth(prompt + path))
    engine.commit(0, [10, 12])
    assert engine.length(0) == 7
    same(engine.forward([Row(10, 0, 60)])[0], truth([*prompt, 50, 52, 60]))


def test_an_empty_slot_takes_a_tree(engine: LlamaCppEngine, truth: Truth) -> None:
    logits = engine.forward([Row(0, 1, 7), Row(1, 1, 8), Row(2, 1, 9, 0), Row(3, 1, 10, 0)])
    for i, path in enumerate(([7], [8], [7, 9], [7, 10])):
        same(logits[i], truth(path))
    engine.commit(1, [0], [3])
    same(engine.forward([Row(4, 1, 11, 3)])[0], truth([7, 10, 11]))


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_agree_with_plain_decoding(plain: Path, truth: Truth, seed: int) -> None:
    slots, context, room = 3, 96, 48
    engine = open_engine(plain, context=context, slots=slots, tree_rows=room, batch=32)
    mirrored(engine, truth, seed).play(250, context, room, width=12)
    assert_all_free(engine, slots)
    engine.close()


@pytest.mark.parametrize("seed", range(3))
def test_random_calls_with_flash_attention(plain: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are put aside too. Keys and values then lie elsewhere in the cache."""
    monkeypatch.setattr(llamacpp, "IDLE_CALLS", 20)
    truth = open_truth(plain, flash_attention="on")
    engine = open_engine(plain, context=96, slots=3, tree_rows=48, batch=32, flash_attention="on")
    mirrored(engine, truth, seed).play(250, 96, 48, width=12)
    assert_all_free(engine, 3)
    engine.close()
    truth.engine.close()


def test_with_flash_attention_other_slots_change_no_bit(plain: Path) -> None:
    """Cells that a row does not see are skipped, and every row is computed by itself."""
    engine = open_engine(plain, context=96, slots=4, tree_rows=48, batch=32, flash_attention="on")
    prompts = [[(7 * i + slot) % SIZE for i in range(20 + 9 * slot)] for slot in range(4)]
    alone: list[NDArray[np.float32]] = []
    for slot, prompt in enumerate(prompts):
        engine.extend(slot, prompt)
        alone.append(engine.forward([Row(0, slot, 5), Row(1, slot, 6)]).copy())
        engine.commit(slot, ())
        engine.truncate(slot, 0)
    for slot, prompt in enumerate(prompts):
        engine.extend(slot, prompt)
    together = engine.forward([Row(2 * slot + i, slot, 5 + i) for slot in range(4) for i in range(2)])
    for slot in range(4):
        np.testing.assert_array_equal(together[2 * slot : 2 * slot + 2], alone[slot])
    engine.close()


@pytest.mark.parametrize("seed", range(3))
def test_slots_that_are_put_aside_come_back_as_they_were(
    plain: Path, truth: Truth, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "IDLE_CALLS", 1)
    monkeypatch.setattr(llamacpp, "TIDY_EVERY", 1)
    engine = open_engine(plain, context=96, slots=4, tree_rows=48, batch=32)
    aside: set[int] = set()
    play = mirrored(engine, truth, seed)
    for _ in range(60):
        play.play(4, 96, 48, width=6)
        aside |= {number for number, tree in enumerate(engine.trees) if tree.aside is not None}
    assert len(aside) > 1
    assert_all_free(engine, 4)
    engine.close()


def test_an_idle_slot_costs_the_others_nothing_after_a_while(plain: Path) -> None:
    engine = open_engine(plain, context=200, slots=2, tree_rows=8, batch=32)
    engine.extend(1, [5] * 150)
    engine.extend(0, [6])
    for _ in range(llamacpp.IDLE_CALLS + llamacpp.TIDY_EVERY + 1):
        engine.forward([Row(0, 0, 7)])
        engine.commit(0, [])
    assert engine.length(1) == 150
    assert engine.trees[1].aside is not None
    assert llama_cpp.llama_memory_seq_pos_max(engine.memory, engine.trees[1].root.seq) == -1
    engine.close()


def test_every_row_of_a_large_tree(plain: Path, truth: Truth) -> None:
    engine = open_engine(plain, context=200, slots=2, tree_rows=128, batch=64)
    play = mirrored(engine, truth, 99)
    play.extend(0, 90)
    play.forward(64, [0, 1], checks=64)
    play.forward(64, [0, 1], checks=64)
    engine.close()


def test_sliding_windows_do_not_lose_cells(sliding: Path) -> None:
    truth = open_truth(sliding)
    for seed in range(6):
        engine = open_engine(sliding, context=96, slots=2, tree_rows=48, batch=32)
        mirrored(engine, truth, seed).play(150, 96, 48, width=12)
        assert_all_free(engine, 2)
        engine.close()
    truth.engine.close()


def test_going_back_beyond_a_sliding_window(sliding: Path) -> None:
    """llama.cpp takes cells outside of the window away as soon as a gap makes it look there."""
    truth = open_truth(sliding)
    engine = open_engine(sliding, context=120, slots=2, tree_rows=16, batch=64)
    first, second = list(range(60)), list(range(100, 160))
    engine.extend(0, first)
    engine.extend(1, second)
    engine.truncate(0, 30)
    engine.extend(0, first[:90])
    engine.truncate(1, 20)
    same(engine.forward([Row(0, 1, 5)])[0], truth([*second[:20], 5]))
    truth.engine.close()
    engine.close()


def test_hundreds_of_branching_steps_leak_nothing(plain: Path, truth: Truth) -> None:
    """The shape of real drafting: a tree grows over several passes, a path is taken, some of the rest stays."""
    engine = open_engine(plain, context=64, slots=1, tree_rows=40, batch=16)
    play = mirrored(engine, truth, 5)
    for _ in range(300):
        if len(play.committed[0]) > 30:
            play.truncate(0, play.random.randrange(10))
        while len(play.rows[0]) + 8 <= 30:
            play.forward(8, [0], checks=0)
        play.keep(0)
        assert_books_agree(engine)
    assert_all_free(engine, 1)
    engine.close()


def test_more_leaves_than_sequences(plain: Path, truth: Truth) -> None:
    engine = open_engine(plain, context=64, slots=2, tree_rows=400, batch=512)
    engine.extend(0, [1, 2, 3])
    engine.forward([Row(1000, 0, 9)])
    with pytest.raises(ContextError, match="sequences"):
        engine.forward([Row(i, 0, i % SIZE) for i in range(300)])
    logits = engine.forward([Row(i, 0, i % SIZE, 1000) for i in range(200)])
    same(logits[150], truth([1, 2, 3, 9, 150]))
    engine.commit(0, [1000])
    logits = engine.forward([Row(i, 1, i % SIZE) for i in range(200)])
    same(logits[33], truth([33]))
    assert engine.length(0) == 4
    engine.close()


def test_no_room_for_rows(plain: Path, truth: Truth) -> None:
    engine = open_engine(plain, context=192, slots=1, tree_rows=64, batch=64)
    engine.forward([Row(i, 0, i) for i in range(60)])
    with pytest.raises(ContextError, match="room"):
        engine.forward([Row(100 + i, 0, i) for i in range(5)])
    engine.commit(0, [59])
    same(engine.forward([Row(100, 0, 5)])[0], truth([59, 5]))
    engine.close()


def test_paths_longer_than_the_context(engine: LlamaCppEngine, truth: Truth) -> None:
    engine.extend(0, [1] * 120)
    with pytest.raises(ContextError, match="129 tokens do not fit the context of 128"):
        engine.extend(0, [1] * 9)
    assert engine.length(0) == 120
    chain = [Row(i, 0, i, i - 1 if i else ROOT) for i in range(9)]
    with pytest.raises(ContextError):
        engine.forward(chain)
    same(engine.forward(chain[:8])[7], truth([1] * 120 + list(range(8))))
    engine.commit(0, range(8))
    assert engine.length(0) == 128
    with pytest.raises(ContextError):
        engine.forward([Row(0, 0, 1)])
    engine.truncate(0, 5)
    same(engine.forward([Row(0, 0, 1)])[0], truth([1] * 6))


def test_failures_inside_llama_cpp_leave_no_trace(plain: Path, truth: Truth) -> None:
    engine = open_engine(plain, context=128, slots=2, tree_rows=100, batch=64)
    engine.extend(0, [1, 2, 3])
    engine.forward([Row(0, 0, 4), Row(1, 0, 5, 0)])
    tree = [Row(2, 0, 6, 1), Row(3, 0, 7, 0), Row(4, 0, 8, 2), Row(5, 0, 9, 2), Row(6, 1, 3), Row(7, 1, 3)]
    engine.size = SIZE + 1  # lets a token through that llama.cpp refuses
    with pytest.raises(ModelError, match="could not compute"):
        engine.forward([*tree, Row(8, 0, SIZE)])
    assert_books_agree(engine)
    with pytest.raises(ModelError):
        engine.extend(1, [1] * 64 + [SIZE])
    assert_books_agree(engine)
    engine.size = SIZE
    assert engine.length(1) == 0
    stop = llama_cpp.ggml_abort_callback(lambda data: True)  # llama.cpp gives up when the cells are already taken
    llama_cpp.llama_set_abort_callback(engine.llama, stop, None)
    with pytest.raises(InterruptedForwardError):
        engine.forward(tree)
    assert_books_agree(engine)
    with pytest.raises(InterruptedForwardError):
        engine.extend(1, [1] * 10)
    assert_books_agree(engine)
    llama_cpp.llama_set_abort_callback(engine.llama, llama_cpp.ggml_abort_callback(), None)
    room, engine.capacity = engine.capacity, 10_000  # lets more rows through than there are cells
    chains = [[Row(i, 1, 1, i - 1 if i % 50 else ROOT) for i in range(k, k + 50)] for k in range(100, 900, 50)]
    with pytest.raises(ContextError):
        fill(engine, chains)
    engine.capacity = room
    assert_books_agree(engine)
    engine.commit(1, ())
    logits = engine.forward(tree)
    for i, path in enumerate(([4, 5, 6], [4, 7], [4, 5, 6, 8], [4, 5, 6, 9])):
        same(logits[i], truth([1, 2, 3, *path]))
    same(logits[4], truth([3]))
    assert_all_free(engine, 2)
    engine.close()


def test_a_forward_pass_can_be_interrupted_and_leaves_no_trace(plain: Path, truth: Truth) -> None:
    engine = open_engine(plain, context=128, slots=2, tree_rows=100, batch=64)
    engine.extend(0, [1, 2, 3])
    engine.forward([Row(0, 0, 4), Row(1, 0, 5, 0)])
    tree = [Row(2, 0, 6, 1), Row(3, 0, 7, 0), Row(4, 0, 8, 2), Row(5, 0, 9, 2), Row(6, 1, 3), Row(7, 1, 3)]
    engine.interrupt()  # while nothing is under way: nothing happens
    with interrupting(engine):

        def given_up() -> bool:
            try:
                engine.forward(tree)
            except InterruptedForwardError:
                assert_books_agree(engine)
                return True
            engine.commit(0, (), [0, 1])
            engine.commit(1, ())
            return False

        wait_for(given_up, "a forward pass that is given up")
    logits = engine.forward(tree)
    for i, path in enumerate(([4, 5, 6], [4, 7], [4, 5, 6, 8], [4, 5, 6, 9])):
        same(logits[i], truth([1, 2, 3, *path]))
    engine.interrupt()
    engine.extend(1, [1] * 10)
    assert_all_free(engine, 2)
    engine.close()


def test_invalid_calls_are_refused_and_change_nothing(engine: LlamaCppEngine, truth: Truth) -> None:
    engine.extend(0, [1, 2])
    engine.forward([Row(0, 0, 3), Row(1, 0, 4, 0)])
    bad: list[list[Row]] = [
        [Row(0, 0, 5)],
        [Row(2, 0, 5), Row(2, 0, 6)],
        [Row(-3, 0, 5)],
        [Row(2, 0, SIZE)],
        [Row(2, 0, -1)],
        [Row(2, 0, 5, 77)],
        [Row(2, 1, 5, 0)],
        [Row(2, 0, 5, 3), Row(3, 0, 6)],
        [Row(2, 2, 5)],
        [Row(2, -1, 5)],
        [Row(i, 0, 5) for i in range(2, 35)],
        # The refusal comes after valid rows, which must be forgotten again.
        [Row(2, 0, 5, 1), Row(3, 0, 6, 1), Row(4, 0, 7, 0), Row(5, 0, 8, 99)],
    ]
    for rows in bad:
        with pytest.raises(ValueError, match=r"row|token|slot"):
            engine.forward(rows)
    for path, rest in ([1], []), ([0, 0], []), ([9], []), ([0], [0]), ([], [1]), ([], [9]), ([1], [0]):
        with pytest.raises(ValueError, match=r"row|token|slot"):
            engine.commit(0, path, rest)
    for length in (-1, 3):
        with pytest.raises(ValueError, match="cut"):
            engine.truncate(0, length)
    with pytest.raises(ValueError, match="vocabulary"):
        engine.extend(0, [0, SIZE])
    with pytest.raises(ValueError, match="slot"):
        engine.length(5)
    assert_books_agree(engine)
    same(engine.forward([Row(2, 0, 5, 1), Row(3, 0, 6, 1)])[1], truth([1, 2, 3, 4, 6]))
    assert engine.forward([]).shape == (0, SIZE)


def test_extend_forgets_rows_and_goes_on_in_batches(engine: LlamaCppEngine, truth: Truth) -> None:
    engine.extend(0, [5])
    engine.forward([Row(0, 0, 6), Row(1, 0, 7)])
    engine.extend(0, list(range(100)))
    assert engine.length(0) == 101
    same(engine.forward([Row(0, 0, 8)])[0], truth([5, *range(100), 8]))
    engine.commit(0, ())
    engine.extend(0, [])
    same(engine.forward([Row(0, 0, 9)])[0], truth([5, *range(100), 9]))


def test_logits_are_the_engines_own_copy(engine: LlamaCppEngine) -> None:
    logits: Logits = engine.forward([Row(0, 0, 1)])
    before = logits.copy()
    engine.extend(1, [4] * 40)
    assert np.array_equal(logits, before)
