"""Tokenizers and chat templates in the Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from duo.engines.meaning import fingerprint, trimmed
from duo.engines.transformers.vocabulary import meanings_in
from duo.errors import RequestError
from tests.support.reference import engine_of
from tests.support.tiny_transformers import GPT2, LOGITS, SHAPE, make_model, make_tokenizer


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


def test_meanings_without_the_weights(tmp_path: Path) -> None:
    folder = make_model(tmp_path, transformers.LlamaConfig(**SHAPE), make_tokenizer(bos=True))
    whole = engine_of(folder).vocabulary.meanings
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()
    found = meanings_in(folder, "tiny")
    assert found == whole[: trimmed(whole)]


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
