"""What a model's makers suggest for sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from duo.engines import suggested
from duo.engines.options import EngineOptions
from tests.support import tiny_gguf, tiny_transformers

QWEN: dict[str, Any] = {
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "transformers_version": "4.51.0",
}
VALUES = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}


def test_a_generation_config() -> None:
    assert suggested.of_config(QWEN, "qwen") == VALUES
    assert next(iter(suggested.of_config(QWEN, "qwen"))) == "temperature"
    assert suggested.of_config({"top_k": -1, "min_p": 0}, "m") == {"top_k": 0, "min_p": 0.0}


@pytest.mark.parametrize("do_sample", [False, True, None])
def test_do_sample_says_nothing(do_sample: bool | None) -> None:
    """The library writes false where nobody edited the file."""
    assert suggested.of_config({**QWEN, "do_sample": do_sample}, "qwen") == VALUES
    assert suggested.of_config({"do_sample": do_sample, "temperature": None}, "qwen") == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_k", True),
        ("top_k", float("inf")),
        ("top_p", 1.5),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
    ],
)
def test_what_means_nothing_is_named_and_ignored(key: str, value: object, caplog: pytest.LogCaptureFixture) -> None:
    assert suggested.of_config({key: value, "presence_penalty": 1.5}, "odd") == {"presence_penalty": 1.5}
    assert f"generation_config.json of odd suggests {key}" in caplog.text


def test_the_header_of_a_gguf() -> None:
    header: dict[str, str] = {
        "general.sampling.temp": "0.600000",
        "general.sampling.top_k": "20",
        "general.sampling.top_p": "0.950000",
        "general.sampling.min_p": "0.000000",
        "general.sampling.penalty_repeat": "1.100000",
        "general.sampling.mirostat": "0",
    }
    expected = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.1}
    assert suggested.of_gguf(header.get, "m") == expected
    del expected["repetition_penalty"]
    assert suggested.of_gguf({**header, "general.sampling.penalty_last_n": "0"}.get, "m") == expected
    assert suggested.of_gguf({"general.sampling.temp": "warm"}.get, "m") == {}
    assert suggested.of_gguf(dict[str, str]().get, "m") == {}


def test_llama_cpp_reads_what_its_converter_writes(tmp_path: Path) -> None:
    def described(writer: Any) -> None:
        tiny_gguf.attention(writer)
        writer.add_sampling_temp(0.6)
        writer.add_sampling_top_k(20)
        writer.add_sampling_penalty_repeat(1.05)

    path = tiny_gguf.write(tmp_path / "m.gguf", "llama", tiny_gguf.decoder_tensors(), described)
    engine = tiny_gguf.open_engine(path)
    assert engine.sampling == {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05}
    engine.close()


@pytest.mark.parametrize("written", [True, False])
def test_transformers_reads_the_file_and_adds_nothing(tmp_path: Path, written: bool) -> None:
    from duo.engines.transformers.engine import TransformersEngine

    tiny_transformers.make_model(tmp_path, tiny_transformers.ARCHITECTURES["llama"]())
    file = tmp_path / "generation_config.json"
    file.unlink(missing_ok=True)
    if written:
        file.write_text(json.dumps(QWEN))
    engine = TransformersEngine(str(tmp_path), EngineOptions(threads=1, name="user/tiny"), lambda share: None)
    assert engine.sampling == (VALUES if written else {})
    assert engine.name == "user/tiny"
    engine.close()


@pytest.mark.parametrize("text", ["{broken", "[]", "7", ""])
def test_a_broken_file_suggests_nothing(tmp_path: Path, text: str) -> None:
    from duo.engines.transformers import loading

    (tmp_path / "generation_config.json").write_text(text)
    assert loading.read_generation_config(str(tmp_path)) == {}
