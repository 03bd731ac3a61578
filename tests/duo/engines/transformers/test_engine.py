"""The transformers engine against plain full forward passes of the same tiny random models."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from bench.harness.processes import wait_for
from duo.engines import EngineOptions, load, runtime_of
from duo.engines.base import ROOT, Engine, InterruptedForwardError, Row
from duo.engines.meaning import fingerprint
from duo.engines.transformers.arena import PlaceBook
from duo.engines.transformers.attention import GROUPED, grouped_attention
from duo.engines.transformers.loading import context_of, sight_of
from duo.errors import ContextError, ModelError, RequestError
from tests.support.interrupting import interrupting
from tests.support.reference import Mirror, Reference, engine_of, interleave

LOGITS = 272  # more than the tokenizer defines, as in models that pad their vocabulary
SHAPE: dict[str, Any] = {
    "vocab_size": LOGITS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,  # large, so that a wrong mask or position shows in the logits
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
ALL_HEADS = {**SHAPE, "num_key_value_heads": 4}
GPT2: dict[str, Any] = {
    "vocab_size": LOGITS,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 96,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
    "qwen2, upper layer sliding": lambda: transformers.Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=8),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=8),
    "gemma2": lambda: transformers.Gemma2Config(**SHAPE, sliding_window=8, head_dim=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE, sliding_window=8, head_dim=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "phi": lambda: transformers.PhiConfig(**ALL_HEADS),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}),
    "mixtral": lambda: transformers.MixtralConfig(**SHAPE, num_local_experts=4),
    "llama4": lambda: transformers.Llama4TextConfig(
        **SHAPE,
        head_dim=8,
        intermediate_size_mlp=64,
        num_local_experts=2,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
        layer_types=["chunked_attention", "full_attention"],
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(**SHAPE, head_dim=8, num_local_experts=4, sliding_window=8),
}


def make_tokenizer(bos: bool = False, template: str | None = None) -> Any:
    """Byte-level BPE with a few merges and two special tokens; with `bos`, texts begin with the first of them."""
    messages = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["th", "the", "Ġthe", "é"]
    vocabulary = {
        text: id for id, text in enumerate(["<s>", "</s>", *messages, *(m for m in merged if m not in messages)])
    }
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e"), ("Ġ", "the")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    maker: Any = transformers.PreTrainedTokenizerFast
    made = maker(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def make_model(folder: Path, config: Any, tokenizer: Any = None) -> str:
    torch.manual_seed(0)
    maker: Any = transformers.AutoModelForCausalLM
    maker.from_config(config).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return str(folder)


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
    """One row of each slot, decoded greedily alone and beside seven others of other lengths: the same text, and logits
    that differ by rounding alone."""
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
    """Growing copies what is in use: what was never written is still zero, and what was is still there."""
    folder = make_model(tmp_path, transformers.LlamaConfig(**{**SHAPE, "max_position_embeddings": 1000}))
    engine, reference = engine_of(folder, slots=4, batch=256), Reference(folder)
    tokens = [(11 * i) % LOGITS for i in range(700)]
    engine.extend(2, tokens[:30])
    engine.extend(0, tokens[:699])  # grows while lane 2 is in use
    got = engine.forward([Row(0, 0, tokens[699]), Row(1, 2, tokens[30])])
    np.testing.assert_allclose(got[0], reference.logits(tokens), atol=1e-4)
    np.testing.assert_allclose(got[1], reference.logits(tokens[:31]), atol=1e-4)
    layers: list[Any] = engine._cache.layers
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
    assert engine.places_used == engine.length(0) == 6
    rows = [Row(i, 0, i) for i in range(5)]
    np.testing.assert_allclose(engine.forward(rows)[4], reference.logits([3, 4, 5, 6, 7, 8, 4]), atol=1e-4)
    with pytest.raises(ContextError, match="no room"):
        engine.forward([Row(5, 0, 5)])
    engine.extend(0, [9, 10])  # forgets the rows, so there is room
    assert engine.places_used == engine.length(0) == 8


def test_no_room_beside_the_rows_of_other_slots(tmp_path: Path) -> None:
    folder = make_model(tmp_path, ARCHITECTURES["gemma2"]())  # whose slots share a lane
    engine = engine_of(folder, context=8, slots=2, tree_rows=0, batch=16)
    engine.forward([Row(i, 1, i) for i in range(10)])
    with pytest.raises(ContextError, match="other slots"):
        engine.extend(0, range(7))
    engine.extend(0, range(6))
    assert engine.places_used == 16


def test_a_fault_of_the_model_leaves_everything_as_it_was(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(folder)
    engine.extend(0, [3, 4, 5])

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_run", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.forward([Row(0, 0, 6)])
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.extend(0, [6])
    assert engine.places_used == engine.length(0) == 3
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
                assert engine.places_used == engine.length(0) == 3
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
    assert engine.places_used == 2


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
        with pytest.raises(ValueError, match="cannot cut"):
            engine.truncate(0, length)
    for token in (-1, LOGITS):
        with pytest.raises(ValueError, match="token"):
            engine.extend(0, [3, token])
    with pytest.raises(ValueError, match="slot"):
        engine.length(-1)
    assert engine.places_used == 5
    assert engine.forward([]).shape == (0, LOGITS)


def test_place_book_against_a_plain_set() -> None:
    dice = random.Random(3)
    book, used = PlaceBook(100, 16), set[int]()
    for _ in range(400):
        if dice.random() < 0.5:
            count = dice.randint(0, 12)
            if count > 100 - len(used):
                with pytest.raises(ContextError):
                    book.take(count)
                continue
            wanted = sorted(set(range(100)) - used)[:count]
            assert book.take(count).tolist() == wanted
            used.update(wanted)
        else:
            freed = dice.sample(sorted(used), dice.randint(0, min(len(used), 12)))
            book.give(freed)
            used.difference_update(freed)
        assert book.used == len(used)
        assert book.top == max(used, default=-1) + 1
        assert book.keys >= book.top and book.keys % 16 == 0


@pytest.mark.parametrize("width", [1, 3])
def test_grouped_attention_equals_the_librarys(width: int) -> None:
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.num_key_value_groups = 3  # type: ignore[assignment]
    query, key, value = torch.randn(1, 6, width, 8), torch.randn(1, 2, 11, 8), torch.randn(1, 2, 11, 4)
    mask = torch.where(torch.rand(1, 1, width, 11) < 0.3, torch.finfo(torch.float32).min, 0.0)
    stock: Any = transformers.AttentionInterface
    for given in (mask, mask.expand(1, 6, width, 11), None):
        wanted, _ = stock()["sdpa"](module, query, key, value, given, scaling=0.4, is_causal=False)
        for _ in range(2):  # as two layers of one forward pass
            got, _ = grouped_attention(module, query, key, value, given, scaling=0.4, is_causal=False)
            torch.testing.assert_close(got, wanted)


def test_library_attention_serves_where_the_grouped_one_does_not(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock: Any = transformers.AttentionInterface

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("never heard of it")

    assert engine_of(folder)._model.config._attn_implementation == GROUPED
    monkeypatch.setitem(stock._global_mapping, GROUPED, broken)
    engine = engine_of(folder)
    assert engine._model.config._attn_implementation == "sdpa" and engine.places_used == 0


def test_properties_and_progress(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    shares: list[float] = []
    engine: Engine = load(folder, "auto", EngineOptions(threads=1), shares.append)
    assert capfd.readouterr() == ("", "")
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0 and len(shares) > 3
    assert (engine.name, engine.runtime) == (Path(folder).name, "transformers")
    assert runtime_of(folder) == "transformers"
    assert engine.context == 96 and engine.batch == 512 and engine.length(0) == 0


def test_context_follows_the_model() -> None:
    def config(**fields: Any) -> Any:
        return transformers.LlamaConfig(**{**SHAPE, **fields})

    assert context_of(config(max_position_embeddings=131072), 0, "m") == 4096
    assert context_of(config(max_position_embeddings=131072), 8192, "m") == 8192
    assert context_of(transformers.PreTrainedConfig(), 0, "m") == 4096
    with pytest.raises(ModelError, match="97 tokens is more than the 96"):
        context_of(config(), 97, "m")
    rope = {
        "rope_type": "longrope",
        "original_max_position_embeddings": 64,
        "long_factor": [1.0],
        "short_factor": [1.0],
    }
    long = transformers.PreTrainedConfig()
    long.max_position_embeddings, long.rope_parameters = 1024, rope
    assert context_of(long, 0, "m") == 64


def test_vocabulary(tmp_path: Path) -> None:
    folder = make_model(tmp_path, transformers.LlamaConfig(**SHAPE), make_tokenizer(bos=True))
    vocabulary = engine_of(folder).vocabulary
    tokens = vocabulary.encode("in the é😀</s>")
    assert tokens[0] == 0 and tokens[-1] == 1
    assert vocabulary.decode(tokens) == "in the é😀"
    assert vocabulary.decode(tokens[:-2]) == "in the é�"
    assert vocabulary.decode([]) == ""
    assert vocabulary.eos == {1}
    raw = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    meanings = vocabulary.meanings
    assert meanings[raw["Ġthe"]] == b" the" and meanings[raw["Ċ"]] == b"\n"
    assert meanings[1] == b"</s>" and vocabulary.token_bytes(1) == b""
    assert len(meanings) == LOGITS and not any(meanings[len(raw) :])
    assert vocabulary.fingerprint == fingerprint(meanings[: len(raw)])
    assert vocabulary.encode("<s>in the") == vocabulary.encode("in the"), "one BOS"
    assert vocabulary.encode("<s><s>in")[:3] == [0, 0, vocabulary.encode("in")[1]], "who writes two has two"


def test_fingerprint_depends_on_what_ids_mean(folder: str, tmp_path: Path) -> None:
    same = make_model(tmp_path / "same", transformers.GPT2Config(**GPT2))
    wider = make_model(tmp_path / "wider", transformers.LlamaConfig(**{**SHAPE, "vocab_size": LOGITS + 16}))
    other = make_model(tmp_path / "other", transformers.LlamaConfig(**SHAPE))
    path = Path(other) / "tokenizer.json"
    swapped = path.read_text(encoding="utf-8").replace('"!"', '"~~"').replace('"#"', '"!"').replace('"~~"', '"#"')
    path.write_text(swapped, encoding="utf-8")
    own = engine_of(folder).vocabulary.fingerprint
    assert engine_of(same).vocabulary.fingerprint == own
    assert engine_of(wider).vocabulary.fingerprint == own
    assert engine_of(other).vocabulary.fingerprint != own


def test_eos_of_model_and_tokenizer(tmp_path: Path) -> None:
    folder = make_model(tmp_path, transformers.LlamaConfig(**SHAPE))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 9]}))
    assert engine_of(folder).vocabulary.eos == {1, 5, 9}


def test_chat(folder: str, tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'ghost' %}{{ raise_exception('no ghosts') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    engine = engine_of(make_model(tmp_path, transformers.LlamaConfig(**SHAPE), make_tokenizer(template=template)))
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    tokens = engine.vocabulary.chat(messages)
    assert tokens == engine.vocabulary.encode("<s>[system]be brief</s>[user]hi</s>[assistant]")
    assert tokens[0] == 0 and tokens.count(1) == 2
    with pytest.raises(RequestError, match="no ghosts") as caught:
        engine.vocabulary.chat([{"role": "ghost", "content": "boo"}])
    assert caught.value.param == "messages" and "\n" not in str(caught.value)

    plain = engine_of(folder).vocabulary
    assert plain.decode(plain.chat(messages)) == "system: be brief\nuser: hi\nassistant:"
    with pytest.raises(RequestError, match="role") as caught:
        plain.chat([{"content": "hi"}])
    assert caught.value.param == "messages"


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def only_pickles(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lose_shard(folder: Path) -> None:
    maker: Any = transformers.AutoModelForCausalLM
    model = maker.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    next(folder.glob("model-00002-of-*.safetensors")).unlink()


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "not json": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "unknown type": (lambda f: change_config(f, model_type="zork"), "of type zork.*update transformers.*GGUF"),
    "code": (lambda f: change_config(f, model_type="zork", auto_map={"AutoConfig": "x.Y"}), "config.json|zork"),
    "not a causal model": (lambda f: change_config(f, model_type="clip"), "not a language model"),
    "encoder and decoder": (lambda f: change_config(f, model_type="t5", is_encoder_decoder=True), "encoder-decoder"),
    "state of no form": (
        lambda f: change_config(f, model_type="rwkv"),
        "RWKV.*use a GGUF of this model, with llama.cpp",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no .safetensors"),
    "pickles": (only_pickles, "holds no .safetensors"),
    "damaged weights": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "cannot load"),
    "truncated weights": (truncate, "cannot load.*get the whole model again"),
    "missing shard": (lose_shard, "cannot load.*model-00002-of-"),
    "other weights": (lambda f: change_config(f, hidden_size=64), "do not fit its config.json"),
    "lost tensor": (drop_tensor, "lack 1 of the model's tensors, first model.norm.weight"),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "no usable tokenizer",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_models(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, transformers.LlamaConfig(**SHAPE))
    harm, message = DAMAGE[name]
    harm(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        engine_of(folder)
    assert "\n" not in str(caught.value)


def test_models_that_ignore_the_mask_are_refused(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "vocab_size": LOGITS,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    mpt = transformers.MptConfig(vocab_size=LOGITS, d_model=32, n_layers=2, n_heads=4, initializer_range=0.3)
    bert = transformers.BertConfig(**small, num_hidden_layers=2, intermediate_size=64, initializer_range=0.3)
    bloom = transformers.BloomConfig(vocab_size=LOGITS, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    for name, config in (("mpt", mpt), ("bert", bert), ("bloom", bloom)):
        with pytest.raises(ModelError, match=f"cannot run models of type {name}"):
            engine_of(make_model(tmp_path / name, config))


def test_attention_that_a_mask_cannot_express_is_refused() -> None:
    for fields in (
        {"layer_types": ["full_attention", "compressed_sparse_attention"]},
        {"layer_types": ["chunked_attention"]},
        {"layer_types": None, "attention_chunk_size": 8},
        {"attention_layers": ["global", "local"]},
        {"alibi": True},
        {"layer_types": ["sliding_attention"], "sliding_window": None},
    ):
        config = transformers.PreTrainedConfig()
        for field, value in fields.items():
            setattr(config, field, value)
        with pytest.raises(ModelError, match="m "):
            sight_of(config, config, "m ")


@pytest.mark.parametrize("path", ["/no/such", "./nosuch", "../nosuch", "~/nosuch-model", "a/b/c", " "])
def test_paths_are_not_looked_up_on_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", reached)
    with pytest.raises(ModelError, match=r"no directory|no model"):
        engine_of(path)


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(ModelError, match=r"some/model is neither a local directory nor .*: no network$"):
        engine_of("some/model")


def test_wrong_options(folder: str) -> None:
    for options in ({"dtype": "float12"}, {"dtype": "int8"}, {"device": "zork"}, {"context": 97}, {"slots": 0}):
        with pytest.raises(ModelError):
            engine_of(folder, **options)
    with pytest.raises(ModelError, match="is a file"):
        engine_of(f"{folder}/config.json")


def test_what_is_shared_after_guesses_were_accepted_is_in_the_order_of_the_tokens(
    folder: str, reference: Reference
) -> None:
    """Rejected rows leave holes that later rows fill, so that places no longer rise along the tokens."""
    engine = engine_of(folder, slots=2, context=64, tree_rows=16, batch=16)
    tokens = [(3 + 5 * at) % LOGITS for at in range(10)]
    engine.extend(0, tokens)
    engine.forward([Row(0, 0, 4), *(Row(at, 0, 4 + at, 0) for at in range(1, 5))])
    engine.commit(0, [0, 4])
    engine.forward([Row(0, 0, 5), Row(1, 0, 6, 0), Row(2, 0, 7, 0)])
    engine.commit(0, [0, 2])
    tokens += [4, 8, 5, 7]
    places = engine._slots[0].places[:14].tolist()
    assert places != sorted(places), "or this tests nothing"
    for length in (14, 13, 12):
        engine.share(0, 1, length)
        got = engine.forward([Row(0, 1, 9)])
        np.testing.assert_allclose(got[0], reference.logits([*tokens[:length], 9]), atol=1e-4)
        engine.commit(1, [])
