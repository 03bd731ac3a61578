"""The llama.cpp engine, on tiny models with random weights that are made here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.harness import processes
from bench.harness.processes import wait_for
from duo.engines import ROOT, EngineOptions, Logits, Row, load
from duo.engines.base import InterruptedForwardError
from duo.engines.llamacpp import engine as llamacpp
from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.engines.llamacpp.load import load as load_gguf
from duo.engines.llamacpp.runtime import Model
from duo.engines.meaning import fingerprint
from duo.errors import ContextError, ModelError, RequestError
from tests.support import mirror
from tests.support.interrupting import interrupting
from tests.support.mirror import TreeMirror, Truth

CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MERGES = ["t h", "th e", "Ġ the", "Ġ a", "i n", "e r", "Ġ ?", "Ġ ."]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PADDING = ["[PAD0]", "[PAD1]"]
WIDTH = 64
WINDOW = 4
TOLERANCE = 2e-3
"""Keys and values are rounded to 16 bits, which moved logits of these models by at most 0.0007 in 1,920 rows. One wrong
token anywhere among sixty moves them by 0.2 or more."""
FLASH_TOLERANCE = 2e-2
"""Flash attention sums values in 16 bits, in the order in which they lie: at most 0.012 was seen in 1,280 rows."""


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


TOKENS = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES] + SPECIAL + PADDING
SIZE = len(TOKENS)
START, END = TOKENS.index("<|im_start|>"), TOKENS.index("<|im_end|>")


def write(
    path: Path,
    architecture: str,
    tensors: Mapping[str, tuple[int, ...]],
    describe: Callable[[gguf.GGUFWriter], None],
    template: str | None = CHATML,
    bos: bool = False,
) -> Path:
    generator = np.random.default_rng(7)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    describe(writer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    kinds = gguf.TokenType
    plain = [int(kinds.NORMAL)] * (SIZE - len(SPECIAL) - len(PADDING))
    writer.add_token_types(plain + [int(kinds.CONTROL)] * len(SPECIAL) + [int(kinds.UNUSED)] * len(PADDING))
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(bos)
    if bos:
        writer.add_bos_token_id(TOKENS.index("<|endoftext|>"))
    if template is not None:
        writer.add_chat_template(template)
    for name, shape in tensors.items():
        values = np.ones(shape) if len(shape) == 1 else generator.standard_normal(shape) / shape[-1] ** 0.5
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def attention(writer: gguf.GGUFWriter) -> None:
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)


def windowed(writer: gguf.GGUFWriter) -> None:
    attention(writer)
    writer.add_sliding_window(WINDOW)


def recurrent(writer: gguf.GGUFWriter) -> None:
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(2 * WIDTH)
    writer.add_ssm_state_size(16)
    writer.add_ssm_time_step_rank(4)


def encoder(writer: gguf.GGUFWriter) -> None:
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_token_type_count(2)


def decoder_tensors(extra: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (SIZE, WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (SIZE, WIDTH),
    }
    for layer in range(2):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (WIDTH,),
            "ffn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH // 2, WIDTH),
            "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (2 * WIDTH, WIDTH),
            "ffn_up": (2 * WIDTH, WIDTH),
            "ffn_down": (WIDTH, 2 * WIDTH),
            **dict.fromkeys(extra, (WIDTH,)),
        }
        tensors |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return tensors


def recurrent_tensors() -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"token_embd.weight": (SIZE, WIDTH), "output_norm.weight": (WIDTH,)}
    inner = 2 * WIDTH
    for layer in range(2):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (WIDTH,),
            "ssm_in.weight": (2 * inner, WIDTH),
            "ssm_conv1d.weight": (inner, 4),
            "ssm_conv1d.bias": (inner,),
            "ssm_x.weight": (4 + 2 * 16, inner),
            "ssm_dt.weight": (inner, 4),
            "ssm_dt.bias": (inner,),
            "ssm_a": (inner, 16),
            "ssm_d": (inner,),
            "ssm_out.weight": (WIDTH, inner),
        }
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    return tensors


def encoder_tensors() -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (SIZE, WIDTH),
        "position_embd.weight": (512, WIDTH),
        "token_types.weight": (2, WIDTH),
        "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
    }
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"blk.{layer}.{name}.weight"] = (WIDTH, WIDTH)
            tensors[f"blk.{layer}.{name}.bias"] = (WIDTH,)
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = (WIDTH,)
            tensors[f"blk.{layer}.{name}.bias"] = (WIDTH,)
        tensors[f"blk.{layer}.ffn_up.weight"] = (2 * WIDTH, WIDTH)
        tensors[f"blk.{layer}.ffn_up.bias"] = (2 * WIDTH,)
        tensors[f"blk.{layer}.ffn_down.weight"] = (WIDTH, 2 * WIDTH)
        tensors[f"blk.{layer}.ffn_down.bias"] = (WIDTH,)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    return write(folder / "Tiny.gguf", "llama", decoder_tensors(), attention)


@pytest.fixture(scope="module")
def sliding(folder: Path) -> Path:
    """A model of which every other layer sees only the last few tokens."""
    tensors = decoder_tensors(("post_attention_norm", "post_ffw_norm"))
    del tensors["output.weight"]
    return write(folder / "sliding.gguf", "gemma2", tensors, windowed)


def open_engine(path: Path, **given: Any) -> LlamaCppEngine:
    options = EngineOptions(threads=1, **{"flash_attention": "off", **given})
    return LlamaCppEngine(Model(path, options, lambda share: None), options)


@pytest.fixture
def engine(plain: Path) -> Iterator[LlamaCppEngine]:
    engine = open_engine(plain, context=128, slots=2, tree_rows=64, batch=32)
    yield engine
    engine.close()


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


def assert_books_agree(engine: LlamaCppEngine) -> None:
    """What the engine believes about its sequences is what llama.cpp has, without a hole in any."""
    memory = engine._memory
    believed = dict.fromkeys(engine._empty, 0)
    for slot in engine._slots:
        assert slot.root.parent is None
        assert all(tip is slot.root or slot.rows[tip.id] is tip for tip in slot.tips.values())
        believed |= {seq: 0 if slot.aside is not None else tip.pos + 1 for seq, tip in slot.tips.items()}
        believed |= {seq: engine._have[seq] for seq in slot.spares}
        if slot.guard is not None:
            believed[slot.guard] = 1 + max(node.pos for node in (slot.root, *slot.rows.values()))
    assert sorted(believed) == list(range(len(engine._have)))
    for seq, length in believed.items():
        assert llama_cpp.llama_memory_seq_pos_max(memory, seq) == length - 1
        assert llama_cpp.llama_memory_seq_pos_min(memory, seq) == min(0, length - 1)
    assert engine._spare_cells == sum(engine._have[seq] for slot in engine._slots for seq in slot.spares)
    assert engine._rows == {row: node for slot in engine._slots for row, node in slot.rows.items()}


def mirrored(engine: LlamaCppEngine, truth: Truth, seed: int) -> TreeMirror:
    return TreeMirror(engine, truth, seed, check=lambda: assert_books_agree(engine))


def assert_all_free(engine: LlamaCppEngine, slots: int) -> None:
    """With its slots cut to nothing, nothing is left in llama.cpp's memory, and the engine can be filled up again."""
    for slot in range(slots):
        engine.truncate(slot, 0)
    assert_books_agree(engine)
    memory = engine._memory
    assert all(llama_cpp.llama_memory_seq_pos_max(memory, seq) == -1 for seq in range(len(engine._have)))
    for slot in range(slots):
        engine.extend(slot, [1] * (engine.context - 1))
    rows = [Row(i, i % slots, i % SIZE) for i in range(engine._capacity)]
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
    """Slots that are put aside too: keys and values lie otherwise in the cache."""
    monkeypatch.setattr(llamacpp, "_IDLE", 20)
    truth = open_truth(plain, flash_attention="on")
    engine = open_engine(plain, context=96, slots=3, tree_rows=48, batch=32, flash_attention="on")
    mirrored(engine, truth, seed).play(250, 96, 48, width=12)
    assert_all_free(engine, 3)
    engine.close()
    truth.engine.close()


def test_with_flash_attention_other_slots_change_no_bit(plain: Path) -> None:
    """Cells that a row does not see are passed over, and every row is computed by itself."""
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
    monkeypatch.setattr(llamacpp, "_IDLE", 1)
    monkeypatch.setattr(llamacpp, "_TIDY_EVERY", 1)
    engine = open_engine(plain, context=96, slots=4, tree_rows=48, batch=32)
    aside: set[int] = set()
    play = mirrored(engine, truth, seed)
    for _ in range(60):
        play.play(4, 96, 48, width=6)
        aside |= {number for number, slot in enumerate(engine._slots) if slot.aside is not None}
    assert len(aside) > 1
    assert_all_free(engine, 4)
    engine.close()


def test_an_idle_slot_costs_the_others_nothing_after_a_while(plain: Path) -> None:
    engine = open_engine(plain, context=200, slots=2, tree_rows=8, batch=32)
    engine.extend(1, [5] * 150)
    engine.extend(0, [6])
    for _ in range(llamacpp._IDLE + llamacpp._TIDY_EVERY + 1):
        engine.forward([Row(0, 0, 7)])
        engine.commit(0, [])
    assert engine.length(1) == 150
    assert engine._slots[1].aside is not None
    assert llama_cpp.llama_memory_seq_pos_max(engine._memory, engine._slots[1].root.seq) == -1
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
    """llama.cpp gives cells outside of the window away as soon as a gap makes it look there."""
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
    engine._size = SIZE + 1  # lets a token through that llama.cpp refuses
    with pytest.raises(ModelError, match="invalid token"):
        engine.forward([*tree, Row(8, 0, SIZE)])
    assert_books_agree(engine)
    with pytest.raises(ModelError):
        engine.extend(1, [1] * 64 + [SIZE])
    assert_books_agree(engine)
    engine._size = SIZE
    assert engine.length(1) == 0
    stop = llama_cpp.ggml_abort_callback(lambda data: True)  # llama.cpp gives up when the cells are already taken
    llama_cpp.llama_set_abort_callback(engine._llama, stop, None)
    with pytest.raises(InterruptedForwardError):
        engine.forward(tree)
    assert_books_agree(engine)
    with pytest.raises(InterruptedForwardError):
        engine.extend(1, [1] * 10)
    assert_books_agree(engine)
    llama_cpp.llama_set_abort_callback(engine._llama, llama_cpp.ggml_abort_callback(), None)
    room, engine._capacity = engine._capacity, 10_000  # lets more rows through than there are cells
    chains = [[Row(i, 1, 1, i - 1 if i % 50 else ROOT) for i in range(k, k + 50)] for k in range(100, 900, 50)]
    with pytest.raises(ContextError):
        fill(engine, chains)
    engine._capacity = room
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
        # The refusal comes after rows that were fine, which have to be forgotten again.
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


def test_properties_and_progress(plain: Path) -> None:
    shares: list[float] = []
    engine = load_gguf(plain, EngineOptions(threads=1, context=100, batch=48), shares.append)
    assert (engine.name, engine.runtime, engine.context, engine.batch) == ("Tiny", "llamacpp", 100, 48)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    engine.close()
    engine.close()
    loaded = load(str(plain), "auto", EngineOptions(threads=1))
    assert (loaded.runtime, loaded.context) == ("llamacpp", 512)
    loaded.close()


def test_an_exception_while_loading_is_not_swallowed(plain: Path) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_gguf(plain, EngineOptions(threads=1), interrupt)


def test_files_that_cannot_be_run(plain: Path, tmp_path: Path) -> None:
    whole = plain.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "stub.gguf").write_bytes(whole[:100])
    (tmp_path / "text.gguf").write_text("hello")
    write(tmp_path / "bert.gguf", "bert", encoder_tensors(), encoder)
    expected = {
        "missing.gguf": "there is no file",
        "cut.gguf": "cannot be loaded: .*(bounds|corrupted|incomplete)",
        "stub.gguf": "cannot be loaded: ",
        "text.gguf": "is not a GGUF file",
        "bert.gguf": "encoder",
        "": "cannot be read",
    }
    for name, reason in expected.items():
        with pytest.raises(ModelError, match=reason) as error:
            open_engine(tmp_path / name)
        assert "\n" not in str(error.value)
        assert "does not say why" not in str(error.value)


def test_options_that_cannot_be_met(plain: Path) -> None:
    with pytest.raises(ModelError, match=r"512 .* 513"):
        open_engine(plain, context=513)
    with pytest.raises(ModelError, match="255 slots"):
        open_engine(plain, context=16, slots=256)


def test_vocabulary(engine: LlamaCppEngine) -> None:
    vocabulary = engine.vocabulary
    assert vocabulary.size == SIZE
    meanings = vocabulary.meanings
    assert meanings[TOKENS.index("Ġthe")] == b" the" and meanings[TOKENS.index("Ċ")] == b"\n"
    assert meanings[START] == b"<|im_start|>" and vocabulary.token_bytes(START) == b""
    assert meanings[-2:] == [b"", b""] and vocabulary.fingerprint == fingerprint(meanings[:-2])
    assert vocabulary.eos == {END, TOKENS.index("<|endoftext|>")}
    the = [TOKENS.index(text) for text in ("Ġthe", "Ġ?", "Ġ.")]
    assert vocabulary.encode(" the ? .") == the


def test_decoding(engine: LlamaCppEngine) -> None:
    vocabulary = engine.vocabulary
    text = "in the end ? \n\n  two . naïve 日本"
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    assert vocabulary.decode([START, *tokens, END]) == text
    for cut in range(len(tokens)):
        left, right = vocabulary.decode(tokens[:cut]), vocabulary.decode(tokens[cut:])
        if "\ufffd" not in left:
            assert left + right == text
    japanese = vocabulary.encode("日")
    assert vocabulary.decode(japanese[:2]) == "\ufffd"
    assert vocabulary.decode([]) == ""
    assert vocabulary.decode([SIZE - 1]) == ""
    with pytest.raises(ValueError, match="vocabulary"):
        vocabulary.decode([SIZE])


def test_text_that_is_no_unicode_is_still_encoded(engine: LlamaCppEngine) -> None:
    assert engine.vocabulary.decode(engine.vocabulary.encode("a\ud800\0b")) == "a?\0b"


def test_chat(engine: LlamaCppEngine) -> None:
    vocabulary = engine.vocabulary
    tokens = vocabulary.chat([{"role": "system", "content": "the"}, {"role": "user", "content": "hé"}])
    body = [vocabulary.encode(text) for text in ("system\nthe", "\n", "user\nhé", "assistant\n")]
    system, newline, user, assistant = body
    assert tokens == [START, *system, END, *newline, START, *user, END, *newline, START, *assistant]
    with pytest.raises(RequestError, match="no tools here") as error:
        vocabulary.chat([{"role": "tool", "content": "x"}])
    assert error.value.param == "messages"
    with pytest.raises(RequestError):
        vocabulary.chat([{"role": "user"}])


def test_chat_writes_one_bos(tmp_path: Path) -> None:
    path = write(tmp_path / "bos.gguf", "llama", decoder_tensors(), attention, "{{ bos_token }}" + CHATML, bos=True)
    engine = open_engine(path)
    bos = TOKENS.index("<|endoftext|>")
    assert engine.vocabulary.encode("a")[0] == bos
    assert engine.vocabulary.decode(engine.vocabulary.encode("a")) == "a"
    assert engine.vocabulary.chat([{"role": "user", "content": "a"}])[:2] == [bos, START]
    rendered = engine.vocabulary.render([{"role": "user", "content": "a"}])
    assert engine.vocabulary.encode(rendered) == engine.vocabulary.encode_rendered(rendered), "a prompt as text"
    assert engine.vocabulary.encode("<|endoftext|>a") == engine.vocabulary.encode("a")
    assert engine.vocabulary.encode("<|endoftext|>" * 2)[:3] == [bos, bos], "who writes two has two"
    engine.close()


def test_chat_without_template(tmp_path: Path) -> None:
    engine = open_engine(write(tmp_path / "bare.gguf", "llama", decoder_tensors(), attention, None))
    tokens = engine.vocabulary.chat([{"role": "user", "content": "the"}])
    assert engine.vocabulary.decode(tokens) == "user: the\nassistant:"
    engine.close()
    engine = open_engine(write(tmp_path / "broken.gguf", "llama", decoder_tensors(), attention, "{% if %}"))
    with pytest.raises(ModelError, match="chat template"):
        engine.vocabulary.chat([{"role": "user", "content": "the"}])
    engine.close()


def test_templates_run_in_a_sandbox(tmp_path: Path) -> None:
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    engine = open_engine(write(tmp_path / "evil.gguf", "llama", decoder_tensors(), attention, evil))
    with pytest.raises(RequestError, match="unsafe"):
        engine.vocabulary.chat([{"role": "user", "content": "the"}])
    engine.close()


def test_needs_no_torch_and_prints_nothing(plain: Path) -> None:
    code = (
        "import sys; from duo.engines import EngineOptions, Row, load\n"
        "engine = load(sys.argv[1], 'llamacpp', EngineOptions(threads=1))\n"
        "engine.forward([Row(0, 0, 1)]); engine.vocabulary.chat([{'role': 'user', 'content': 'a'}])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(plain)], cwd=processes.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_logits_are_the_engines_own_copy(engine: LlamaCppEngine) -> None:
    logits: Logits = engine.forward([Row(0, 0, 1)])
    before = logits.copy()
    engine.extend(1, [4] * 40)
    assert np.array_equal(logits, before)
