"""Chains in llama.cpp, on tiny models of every kind of memory: recurrent, hybrid, and attention with cells apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from duo.engines import Chunk, Row
from duo.engines.base import InterruptedForwardError
from duo.engines.llamacpp import native
from duo.engines.llamacpp import slots as slots_module
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.slots import MAX_RIDERS
from duo.errors import ContextError, ModelError
from duo.prefix import common_length
from tests.support.gguf_kinds import (
    ATTENTION,
    RECURRENT,
    REPLAYS,
    SIZE,
    SNAPSHOTS,
    WINDOWED,
    chain,
    marked,
    open_engine,
    open_truth,
    path_of,
)
from tests.support.mirror import ChainMirror


@pytest.mark.parametrize("kind", [*marked(RECURRENT), *ATTENTION, WINDOWED])
@pytest.mark.parametrize("slots", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_random_calls_agree_with_reading_all_anew(
    kind: str, slots: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "SPACING", 16)
    path = path_of(kind, folder)
    truth = open_truth(path)
    engine = open_engine(path, context=160, slots=slots, tree_rows=40, batch=64, chains=kind in ATTENTION)
    ChainMirror(engine, truth, seed=slots).play(120, 160)
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize("draft_max", [0, 8])
def test_a_windowed_hybrid_shares_what_it_says_it_can(draft_max: int, folder: Path) -> None:
    """If each slot has its own cells, its sequences cannot be forked, and the tokens are read again."""
    truth = open_truth(path_of(WINDOWED, folder))
    engine = open_engine(path_of(WINDOWED, folder), context=160, slots=3, batch=64, draft_max=draft_max)
    for slot, count in ((0, 60), (2, 30)):
        engine.extend(slot, [(7 * i + slot) % SIZE for i in range(count)])
        engine.forward(chain(slot, 0, [5, 6, 7][: 1 + draft_max]))
        engine.commit(slot, [0])
    for target in (1, 2):
        engine.commit(target, ())
        assert engine.share(0, target, 61) == engine.restorable(0, 61) == engine.length(target)
    held = [(7 * i) % SIZE for i in range(60)] + [5]
    for slot in (2, 0, 1):
        truth.check(engine.forward(chain(slot, 10 * slot, [9]))[0], [*held[: engine.length(slot)], 9])
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_a_pass_of_other_slots_moves_the_states_of_one_whose_rows_are_not_kept_yet(kind: str, folder: Path) -> None:
    """llama.cpp moves only the newest state, so the slot cannot go back by its snapshots any more."""
    path = path_of(kind, folder)
    truth = open_truth(path)
    engine = open_engine(path, context=64, slots=3)
    for slot in (0, 2, 1):  # states lie in the order in which slots come
        engine.extend(slot, [10 + slot] * 5)
    engine.forward(chain(2, 0, [7, 8, 9, 10]))
    engine.forward([*chain(0, 10, [5]), *chain(1, 20, [6])])
    engine.commit(2, [0])
    truth.check(engine.forward(chain(2, 30, [11]))[0], [12] * 5 + [7, 11])
    engine.close()
    truth.engine.close()


class Counted:
    """Counts the tokens that an engine decodes, and how many decodes that takes."""

    def __init__(self, engine: ChainEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = self.decodes = 0
        decode = native.Batch.decode

        def counted(batch: native.Batch, llama: Any, tokens: list[int], *rest: Any) -> int:
            if llama is engine.llama:
                self.tokens += len(tokens)
                self.decodes += 1
            return decode(batch, llama, tokens, *rest)

        monkeypatch.setattr(native.Batch, "decode", counted)

    def take(self) -> int:
        count, self.tokens = self.tokens, 0
        return count


@pytest.mark.parametrize("kind", marked(RECURRENT))
@pytest.mark.parametrize("rewritten", [None, 3, pytest.param(-2, marks=pytest.mark.slow)])
def test_a_conversation_reads_only_what_is_new(
    kind: str, rewritten: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rewritten: from this token on, the template writes the last answer otherwise than it was generated. Below 0: from
    the last tokens of its prompt on."""
    path = path_of(kind, folder)
    truth = open_truth(path)
    engine = open_engine(path, context=512, slots=1)
    counted = Counted(engine, monkeypatch)
    cached: list[int] = []
    prompt = [(7 * i) % SIZE for i in range(50)]
    for turn in range(8):
        known = common_length(cached, prompt)
        common = engine.restorable(0, min(known, len(prompt) - 1))
        assert engine.truncate(0, common) == common
        counted.take()
        if common < len(prompt) - 1:
            engine.forward([], [Chunk(0, prompt[common:-1])])
        assert known - common <= MAX_RIDERS + 4
        assert counted.take() <= len(prompt) - common
        answer: list[int] = []
        token = prompt[-1]
        for step in range(8):
            rows = chain(0, 0, [token, *[(token + step + i) % SIZE for i in range(3)]])
            logits = engine.forward(rows)
            if step in (0, 7):
                truth.check(logits[0], [*prompt, *answer])
            engine.commit(0, [0, 1] if step % 2 else [0])
            answer += [row.token for row in rows[1:2] if step % 2] + [int(logits[0].argmax())]
            token = answer[-1]
        cached, before = [*prompt, *answer[:-1]], len(prompt)
        text = cached if rewritten is None else [*cached[: before + rewritten], 1, 2, *answer]
        prompt = [*text, *[(11 * i + turn) % SIZE for i in range(20)]]
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize("kind", marked(RECURRENT))
def test_texts_with_guesses_are_those_without(kind: str, folder: Path) -> None:
    path = path_of(kind, folder)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    texts: list[list[int]] = []
    for wrong_at in (0, 1, 2, 3, 9):  # which guess of a chain is wrong; 0: there are none
        engine = open_engine(path, context=256)
        engine.extend(0, prompt[:-1])
        text: list[int] = []
        token = prompt[-1]
        while len(text) < 60:
            guesses = [] if not texts else texts[0][len(text) : len(text) + 4]
            guesses[wrong_at - 1 :] = [(guess + 1) % SIZE for guess in guesses[wrong_at - 1 :]]
            rows = chain(0, 0, [token, *guesses] if texts else [token])
            picks = [int(row.argmax()) for row in engine.forward(rows)]
            right = 0
            while right < len(rows) - 1 and rows[1 + right].token == picks[right]:
                right += 1
            engine.commit(0, range(1 + right))
            text += picks[: 1 + right]
            token = text[-1]
        texts.append(text[:60])
        engine.close()
    assert len(set(texts[0])) > 5
    assert all(text == texts[0] for text in texts)


@pytest.mark.parametrize("kind", [*RECURRENT, *ATTENTION])
def test_a_decode_that_fails_leaves_no_trace(kind: str, folder: Path) -> None:
    path = path_of(kind, folder)
    truth = open_truth(path)
    engine = open_engine(path, context=128, slots=3, chains=kind in ATTENTION)
    first, second, third = [1, 2, 3] * 5, [4, 5] * 6, [6, 7, 8]
    for slot, tokens in enumerate((first, second, third)):
        engine.extend(slot, tokens)
    engine.forward(chain(2, 50, [60, 61, 62]))
    stop = llama_cpp.ggml_abort_callback(lambda data: True)  # llama.cpp gives up when it has moved states already
    llama_cpp.llama_set_abort_callback(engine.llama, stop, None)
    with pytest.raises(InterruptedForwardError):
        engine.forward([*chain(0, 0, [20, 21, 22]), *chain(1, 10, [30, 31, 32])])
    with pytest.raises(InterruptedForwardError):
        engine.forward(chain(0, 0, [20]), [Chunk(1, [9] * 20)])
    with pytest.raises(InterruptedForwardError):
        engine.extend(1, [9] * 70)
    llama_cpp.llama_set_abort_callback(engine.llama, llama_cpp.ggml_abort_callback(), None)
    size, engine.size = engine.size, SIZE + 1  # lets a token through that llama.cpp refuses
    with pytest.raises(ModelError, match="could not compute"):
        engine.forward(chain(0, 0, [5, SIZE]))
    engine.size = size
    assert [engine.length(slot) for slot in range(3)] == [15, 12, 3]
    engine.commit(2, [50])
    logits = engine.forward([*chain(0, 0, [20, 21, 22]), *chain(1, 10, [30, 31]), *chain(2, 20, [63])])
    for i, path_to in enumerate(([20], [20, 21], [20, 21, 22])):
        truth.check(logits[i], first + path_to)
    truth.check(logits[4], [*second, 30, 31])
    truth.check(logits[5], [*third, 60, 63])
    engine.close()
    truth.engine.close()


def test_with_cells_apart_other_slots_change_no_bit(folder: Path) -> None:
    """This holds for attention models, in passes with equally many rows."""
    for flash_attention in ("off", "on"):
        engine = open_engine(
            path_of("llama", folder), context=128, slots=4, chains=True, flash_attention=flash_attention
        )
        prompts = [[(7 * i + slot) % SIZE for i in range(20 + 9 * slot)] for slot in range(4)]
        for slot, prompt in enumerate(prompts):
            engine.extend(slot, prompt)
        alone = [engine.forward(chain(slot, 10 * slot, [5, 6, 7])).copy() for slot in range(4)]
        for slot in range(4):
            engine.commit(slot, ())
        for slot in (1, 2):  # what is around it is other tokens, in other slots, and was read otherwise
            engine.truncate(slot, 3)
            engine.extend(slot, [9] * 40)
        for slot in (0, 3):
            again = engine.forward(chain(slot, 10 * slot, [5, 6, 7]))
            np.testing.assert_array_equal(again, alone[slot])
            engine.commit(slot, ())
        engine.close()


@pytest.mark.parametrize("kind", marked(REPLAYS))
def test_states_that_stay_on_the_device(kind: str, folder: Path) -> None:
    """The calls are those of a GPU, where states are copied within its memory."""
    path = path_of(kind, folder)
    truth = open_truth(path)
    engine = open_engine(path, context=160, slots=2, tree_rows=40, batch=64)
    engine.on_gpu = True
    ChainMirror(engine, truth, seed=1).play(120, 160)
    assert any(it.before and it.before.flags & native.ON_DEVICE for it in engine.chains)
    engine.close()
    truth.engine.close()


def test_invalid_calls_are_refused_and_change_nothing(folder: Path) -> None:
    path = path_of("qwen35", folder)
    truth = open_truth(path)
    engine = open_engine(path, context=64, slots=2, batch=32, tree_rows=30)
    engine.extend(0, [1, 2])
    engine.extend(1, [3])
    engine.forward(chain(0, 0, [3, 4]))
    bad: list[list[Row]] = [
        [Row(5, 0, 5)],  # before `commit`
        [Row(0, 1, 5)],
        [Row(-3, 1, 5)],
        [Row(5, 1, SIZE)],
        [Row(5, 1, 5, 0)],
        [Row(5, 1, 5), Row(6, 1, 6)],
        [Row(5, 1, 5), Row(6, 1, 6, 5), Row(7, 1, 6, 5)],
        [Row(5, 2, 5)],
        chain(1, 10, [1] * 33),
    ]
    for rows in bad:
        with pytest.raises(ValueError, match=r"row|token|slot"):
            engine.forward(rows)
    for path_to, rest in ([1], []), ([0, 0], []), ([9], []), ([0], [1]), ([0, 1, 2], []):
        with pytest.raises(ValueError, match=r"row|slot"):
            engine.commit(0, path_to, rest)
    with pytest.raises(ContextError, match="room"):
        engine.forward(chain(1, 10, [1] * 29))
    with pytest.raises(ContextError, match="65 tokens do not fit the context of 64"):
        engine.extend(1, [1] * 64)
    with pytest.raises(ValueError, match="cut"):
        engine.truncate(0, 3)
    truth.check(engine.forward(chain(1, 20, [6]))[0], [3, 6])
    engine.commit(0, [0, 1])
    truth.check(engine.forward(chain(0, 0, [7]))[0], [1, 2, 3, 4, 7])
    engine.commit(0, [])
    engine.forward(chain(0, 0, [7] * 12))
    with pytest.raises(ValueError, match="11 rows"):
        engine.commit(0, [0])
    engine.commit(0, range(8))
    assert engine.length(0) == 12
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize(
    ("kind", "neighbours"), [("qwen35", False), ("qwen3next", False), ("mamba", True), ("llama", True)]
)
def test_slots_with_a_gap_between_share_a_pass_of_a_hybrid(
    kind: str, neighbours: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the same bits are asked for, which a recurrent model cannot give."""
    engine = open_engine(path_of(kind, folder), context=64, slots=3, chains=True)
    counted = Counted(engine, monkeypatch)
    for slot in (0, 2):
        engine.extend(slot, [10 + slot] * (MAX_RIDERS + 5))
        engine.forward(chain(slot, 0, [4]))  # what is left of the prompt rides along
        engine.commit(slot, [0])
    before = counted.decodes
    engine.forward([*chain(0, 10, [5]), *chain(2, 20, [6])])
    assert counted.decodes - before == (2 if neighbours else 1)
    assert engine.neighbours == neighbours
    engine.close()
