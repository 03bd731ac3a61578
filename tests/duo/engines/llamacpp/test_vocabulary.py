"""Vocabularies and chat templates of GGUF files."""

from __future__ import annotations

from pathlib import Path

import pytest

from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.engines.llamacpp.vocabulary import meanings_in
from duo.engines.meaning import fingerprint
from duo.errors import ModelError, RequestError
from tests.support.fim import QWEN, gguf_with
from tests.support.tiny_gguf import CHATML, END, SIZE, START, TOKENS, attention, decoder_tensors, open_engine, write


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


def test_meanings_without_the_weights(tmp_path: Path, engine: LlamaCppEngine) -> None:
    path = write(tmp_path / "m.gguf", "llama", decoder_tensors(), attention)
    whole = path.read_bytes()
    assert meanings_in(path) == engine.vocabulary.meanings
    path.write_bytes(whole[:1000])
    with pytest.raises(ModelError, match="cannot read the vocabulary of"):
        meanings_in(path)


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
    result = vocabulary.render([{"role": "tool", "content": "x"}])
    assert "user\n<tool_response>\nx\n</tool_response>" in result, "the template refuses results, so it gets text"
    with pytest.raises(RequestError) as error:
        vocabulary.chat([{"content": "x"}])
    assert error.value.param == "messages"


def test_an_answer_that_continues_a_message(engine: LlamaCppEngine) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the "}]
    whole = engine.vocabulary.render(turns, continues=True)
    assert whole == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nthe "
    assert engine.vocabulary.chat(turns, continues=True) == engine.vocabulary.encode_rendered(whole)


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


def test_marks_for_code_in_the_middle(engine: LlamaCppEngine, plain: Path, tmp_path: Path) -> None:
    assert engine.vocabulary.fim_tokens == {}
    marked = open_engine(gguf_with(QWEN[:3], plain, tmp_path))
    found = marked.vocabulary.fim_tokens
    assert found == {"prefix": SIZE - 3, "suffix": SIZE - 2, "middle": SIZE - 1}
    assert [marked.vocabulary.meanings[token].decode() for token in found.values()] == list(QWEN[:3])
    assert [marked.vocabulary.token_bytes(token) for token in found.values()] == [b""] * 3
    assert marked.vocabulary.encode_rendered("a" + QWEN[0])[-1] == found["prefix"]
    marked.close()
