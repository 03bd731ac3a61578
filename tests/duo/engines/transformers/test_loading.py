"""Models that cannot run are refused in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from duo.engines import EngineOptions, load, runtime_of
from duo.engines.base import Engine
from duo.engines.transformers.loading import context_of, sight_of
from duo.errors import ModelError
from tests.support.reference import engine_of
from tests.support.tiny_transformers import LOGITS, SHAPE, make_model


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
    with pytest.raises(ModelError, match=r"some/model is neither a folder here nor .*: check the name$"):
        engine_of("some/model")


def test_wrong_options(folder: str) -> None:
    for options in ({"dtype": "float12"}, {"dtype": "int8"}, {"device": "zork"}, {"context": 97}, {"slots": 0}):
        with pytest.raises(ModelError):
            engine_of(folder, **options)
    with pytest.raises(ModelError, match="is a file"):
        engine_of(f"{folder}/config.json")


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
