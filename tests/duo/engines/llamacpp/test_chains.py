"""Chains in llama.cpp, on tiny models of every kind of memory: recurrent, hybrid, and attention with cells apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

import lead.flags
from bench.harness.processes import wait_for
from bench.kinds import KINDS, checkpoint, gguf_file, make, vocabulary
from duo.engines import ROOT, Chunk, Engine, EngineOptions, Row, load
from duo.engines.base import TREES, InterruptedForwardError, Rollback
from duo.engines.llamacpp import native
from duo.engines.llamacpp import slots as slots_module
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.slots import RIDERS
from duo.engines.llamacpp.states import StateTreeEngine
from duo.engines.options import GPU_ALL, GPU_AUTO
from duo.errors import ContextError, ModelError
from duo.prefix import common_length
from duo.program import models
from tests.support.interrupting import interrupting
from tests.support.mirror import ChainMirror, TreeMirror, Truth

SNAPSHOTS = ("qwen35", "lfm2", "nemotron-h")
"""Kinds whose states llama.cpp takes back."""
REPLAYS = ("qwen3next", "kimi-linear", "mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "rwkv7")
RECURRENT = (*SNAPSHOTS, *REPLAYS)
ATTENTION = ("llama", "gemma3")
WINDOWED = "windowed"
SIZE = 384
TOLERANCE = 3e-2
"""Keys and values are rounded to 16 bits, and states are summed in another order where several tokens are read at
once: that moved logits by at most 0.011 in 5,000 rows. One wrong token among the last few moves them by 3 or more.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


def path_of(kind: str, folder: Path) -> Path:
    if kind == WINDOWED:
        return windowed_hybrid(folder)
    made = make(kind, folder)
    assert made.gguf is not None
    return made.gguf


def windowed_hybrid(folder: Path) -> Path:
    """LFM2 whose attention sees the last 8 tokens."""
    lfm2, out = KINDS["lfm2"], folder / f"{WINDOWED}.gguf"
    if not out.exists():
        kind = replace(lfm2, name=WINDOWED, keys=lambda config: {**lfm2.keys(config), "attention.sliding_window": 8})
        vocabulary.write(folder / WINDOWED)
        gguf_file.convert(kind, folder / WINDOWED, checkpoint.write(kind, folder / WINDOWED, 0), out)
    return out


def open_engine(path: Path, **given: Any) -> ChainEngine:
    options = EngineOptions(threads=1, **{"flash_attention": "off", **given})
    return ChainEngine(Model(path, options, lambda share: None), options)


def open_truth(path: Path) -> Truth:
    return Truth(open_engine(path, context=512, draft_max=0), TOLERANCE)


def chain(slot: int, first: int, tokens: Sequence[int]) -> list[Row]:
    return [Row(first + i, slot, token, first + i - 1 if i else ROOT) for i, token in enumerate(tokens)]


@pytest.mark.parametrize("kind", [*RECURRENT, *ATTENTION, WINDOWED])
@pytest.mark.parametrize("slots", [1, 3])
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


@pytest.mark.parametrize("kind", [*RECURRENT, WINDOWED])
def test_random_trees_of_a_draft_model_agree_with_reading_all_anew(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "SPACING", 16)
    path = path_of(kind, folder)
    truth = open_truth(path)
    options = EngineOptions(threads=1, context=96, slots=2, tree_rows=24, batch=32, drafts=True)
    engine = StateTreeEngine(Model(path, options, lambda share: None), options)
    TreeMirror(engine, truth, seed=1, check=partial(assert_states_agree, engine)).play(150, 96, 24, 8)
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize("draft_max", [0, 8])
def test_a_windowed_hybrid_shares_what_it_says_it_can(draft_max: int, folder: Path) -> None:
    """Where each slot has cells of its own its sequences cannot be forked, and the tokens are read again."""
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


def assert_states_agree(engine: StateTreeEngine) -> None:
    """What the engine believes about its sequences is what llama.cpp has."""
    believed = dict.fromkeys(engine._free_seqs, 0)
    believed |= {slot.seq: slot.read for slot in engine._slots}
    believed |= {node.seq: node.pos + 1 for node in engine._rows.values() if node.seq is not None}
    assert sorted(believed) == list(range(engine.slots + engine.capacity))
    stale = {slot.seq for slot in engine._slots if slot.stale}
    for seq, length in believed.items():
        if seq not in stale:
            assert llama_cpp.llama_memory_seq_pos_max(engine._memory, seq) == length - 1


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_a_pass_of_other_slots_moves_the_states_of_one_whose_rows_are_not_kept_yet(kind: str, folder: Path) -> None:
    """llama.cpp moves the newest state alone, so the slot cannot go back by its snapshots any more."""
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

    def __init__(self, engine: ChainEngine | StateTreeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = self.decodes = 0
        decode = engine._arrays.decode

        def counted(llama: Any, tokens: list[int], *rest: Any) -> int:
            self.tokens += len(tokens)
            self.decodes += 1
            return decode(llama, tokens, *rest)

        monkeypatch.setattr(engine._arrays, "decode", counted)

    def take(self) -> int:
        count, self.tokens = self.tokens, 0
        return count


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("rewritten", [None, 3, -2])
def test_a_conversation_reads_only_what_is_new(
    kind: str, rewritten: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rewritten`: the template writes the last answer otherwise than it was generated, from that token on. Below 0:
    from the last tokens of its prompt on."""
    path = path_of(kind, folder)
    truth = open_truth(path)
    engine = open_engine(path, context=512, slots=1)
    counted = Counted(engine, monkeypatch)
    held: list[int] = []
    prompt = [(7 * i) % SIZE for i in range(50)]
    for turn in range(8):
        known = common_length(held, prompt)
        common = engine.restorable(0, min(known, len(prompt) - 1))
        assert engine.truncate(0, common) == common
        counted.take()
        if common < len(prompt) - 1:
            engine.forward([], [Chunk(0, prompt[common:-1])])
        assert known - common <= RIDERS + 4
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
        held, before = [*prompt, *answer[:-1]], len(prompt)
        text = held if rewritten is None else [*held[: before + rewritten], 1, 2, *answer]
        prompt = [*text, *[(11 * i + turn) % SIZE for i in range(20)]]
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize("kind", RECURRENT)
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
    llama_cpp.llama_set_abort_callback(engine._llama, stop, None)
    with pytest.raises(InterruptedForwardError):
        engine.forward([*chain(0, 0, [20, 21, 22]), *chain(1, 10, [30, 31, 32])])
    with pytest.raises(InterruptedForwardError):
        engine.forward(chain(0, 0, [20]), [Chunk(1, [9] * 20)])
    with pytest.raises(InterruptedForwardError):
        engine.extend(1, [9] * 70)
    llama_cpp.llama_set_abort_callback(engine._llama, llama_cpp.ggml_abort_callback(), None)
    size, engine._size = engine._size, SIZE + 1  # lets a token through that llama.cpp refuses
    with pytest.raises(ModelError, match="invalid token"):
        engine.forward(chain(0, 0, [5, SIZE]))
    engine._size = size
    assert [engine.length(slot) for slot in range(3)] == [15, 12, 3]
    engine.commit(2, [50])
    logits = engine.forward([*chain(0, 0, [20, 21, 22]), *chain(1, 10, [30, 31]), *chain(2, 20, [63])])
    for i, path_to in enumerate(([20], [20, 21], [20, 21, 22])):
        truth.check(logits[i], first + path_to)
    truth.check(logits[4], [*second, 30, 31])
    truth.check(logits[5], [*third, 60, 63])
    engine.close()
    truth.engine.close()


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_tree_whose_decode_fails_leaves_no_trace(kind: str, folder: Path) -> None:
    path = path_of(kind, folder)
    truth = open_truth(path)
    options = EngineOptions(threads=1, context=96, slots=2, tree_rows=24, batch=32, drafts=True)
    engine = StateTreeEngine(Model(path, options, lambda share: None), options)
    engine.extend(0, [1, 2, 3])
    engine.extend(1, [4] * 10)
    engine.forward([Row(0, 0, 4), Row(1, 0, 5, 0), Row(2, 1, 6)])
    tree = [Row(3, 0, 6, 1), Row(4, 0, 7, 0), Row(5, 0, 8, 3), Row(6, 0, 9, 3), Row(7, 1, 3, 2)]
    stop = llama_cpp.ggml_abort_callback(lambda data: True)
    llama_cpp.llama_set_abort_callback(engine._llama, stop, None)
    with pytest.raises(InterruptedForwardError):
        engine.forward(tree)
    llama_cpp.llama_set_abort_callback(engine._llama, llama_cpp.ggml_abort_callback(), None)
    assert_states_agree(engine)
    logits = engine.forward(tree)
    for i, path_to in enumerate(([4, 5, 6], [4, 7], [4, 5, 6, 8], [4, 5, 6, 9])):
        truth.check(logits[i], [1, 2, 3, *path_to])
    truth.check(logits[4], [4] * 10 + [6, 3])
    engine.close()
    truth.engine.close()


def test_drafting_can_be_interrupted_between_decodes(folder: Path) -> None:
    path = path_of("qwen35", folder)
    truth = open_truth(path)
    options = EngineOptions(threads=1, context=96, tree_rows=24, batch=32, drafts=True)
    engine = StateTreeEngine(Model(path, options, lambda share: None), options)
    engine.interrupt()  # while nothing is under way: nothing happens
    engine.extend(0, [1, 2, 3])
    tree = [Row(0, 0, 4), Row(1, 0, 5, 0), Row(2, 0, 6, 0)]
    with interrupting(engine):

        def given_up() -> bool:
            try:
                engine.forward(tree)
            except InterruptedForwardError:
                assert_states_agree(engine)
                return True
            engine.commit(0, ())
            return False

        wait_for(given_up, "a forward pass that is given up")
    truth.check(engine.forward(tree)[2], [1, 2, 3, 4, 6])
    engine.close()
    truth.engine.close()


def test_with_cells_apart_other_slots_change_no_bit(folder: Path) -> None:
    """Of an attention model, where passes have as many rows."""
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


@pytest.mark.parametrize("kind", REPLAYS)
def test_states_that_stay_on_the_device(kind: str, folder: Path) -> None:
    """The same calls as on a GPU, where states are copied within its memory."""
    path = path_of(kind, folder)
    truth = open_truth(path)
    engine = open_engine(path, context=160, slots=2, tree_rows=40, batch=64)
    engine._gpu = True
    ChainMirror(engine, truth, seed=1).play(120, 160)
    assert any(slot.before and slot.before.flags & native.ON_DEVICE for slot in engine._slots)
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
    """Also where the same bits are asked for, which a recurrent model cannot give."""
    engine = open_engine(path_of(kind, folder), context=64, slots=3, chains=True)
    counted = Counted(engine, monkeypatch)
    for slot in (0, 2):
        engine.extend(slot, [10 + slot] * (RIDERS + 5))
        engine.forward(chain(slot, 0, [4]))  # what is left of the prompt rides along
        engine.commit(slot, [0])
    before = counted.decodes
    engine.forward([*chain(0, 10, [5]), *chain(2, 20, [6])])
    assert counted.decodes - before == (2 if neighbours else 1)
    assert engine.neighbours == neighbours
    engine.close()


def test_which_engine_serves_a_file(folder: Path) -> None:
    def engine_of(kind: str, **given: Any) -> Engine:
        return load(str(path_of(kind, folder)), "auto", EngineOptions(threads=1, **{"flash_attention": "off", **given}))

    expected: list[tuple[str, dict[str, Any], type[object], Rollback]] = [
        ("llama", {}, LlamaCppEngine, TREES),
        ("llama", {"drafts": True}, LlamaCppEngine, TREES),
        ("llama", {"chains": True, "tree_rows": 40}, ChainEngine, Rollback(False, 40)),
        ("qwen35", {}, ChainEngine, Rollback(False, 8)),
        ("qwen35", {"draft_max": 3}, ChainEngine, Rollback(False, 3)),
        ("qwen35", {"draft_max": 0}, ChainEngine, Rollback(False, 0)),
        ("qwen3next", {"draft_max": 5}, ChainEngine, Rollback(False, 5, replay=True)),
        ("qwen3next", {"draft_max": 0}, ChainEngine, Rollback(False, 0)),
        ("mamba", {"drafts": True}, StateTreeEngine, TREES),
    ]
    for kind, given, of, rollback in expected:
        engine = engine_of(kind, **given)
        assert isinstance(engine, of)
        assert engine.rollback == rollback
        assert ("\n" in engine.note, "is recurrent" in engine.note) == (False, kind != "llama")
        engine.close()


@pytest.mark.parametrize(
    ("gpu", "asked", "layers"),
    [
        (False, 99, 0),
        (False, GPU_ALL, 0),
        (False, GPU_AUTO, 0),
        (False, 0, 0),
        (True, 99, 99),
        (True, GPU_ALL, native.ALL_LAYERS),
        (True, GPU_AUTO, native.ALL_LAYERS),
        (True, 0, 0),
    ],
)
def test_layers_on_a_gpu_that_there_may_be(gpu: bool, asked: int, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: gpu)
    assert native.gpu_layers(asked) == layers


def test_without_a_gpu_layers_for_one_change_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: False)
    flags = ["-m", str(path_of("llama", folder)), "-t", "1", "-c", "64", "-fa", "off", "--exact", "on", "-ngl"]
    for layers, warned in (("99", True), ("all", True), ("auto", False)):
        caplog.clear()
        args = lead.flags.parser().parse_args([*flags, layers])
        engine = models.load_engine(args, "target", 8, 1, chains=True)
        assert isinstance(engine, ChainEngine), "the same bits can be had"
        assert not engine.inexact and not engine.options.gpu_layers
        assert ("sees no GPU" in caplog.text) == warned
        engine.close()
