"""Flags that name a model of the hub or of Ollama's become paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any, NoReturn

import pytest

from back.__main__ import parser as back_parser
from duo.engines import EngineOptions, threads
from duo.engines.load import load, runtime_of
from duo.errors import ModelError
from duo.program import flags, models
from duo.program.hub import ollama
from lead.flags import parser as lead_parser
from tests.support import tiny_transformers
from tests.support.hub import FakeHub, instead_of_the_hub
from tests.support.tiny_gguf import attention, decoder_tensors, write


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with instead_of_the_hub(monkeypatch, tmp_path / "hub") as hub:
        hub.repositories["user/small"] = {"s-Q4_0.gguf": b"GGUF", "s-Q8_0.gguf": b"GGUF8"}
        hub.repositories["user/plain"] = {"config.json": b"{}", "model.safetensors": b"w"}
        yield hub


def lead(*words: str) -> argparse.Namespace:
    return models.located(lead_parser().parse_args(words))


def test_a_model_and_its_draft(server: FakeHub) -> None:
    args = lead("-hf", "user/plain", "-hfd", "user/small:Q4_0", "--threads", "3")
    assert (args.model_name, args.threads) == ("user/plain", 3)
    assert sorted(file.name for file in Path(args.model).iterdir()) == ["config.json", "model.safetensors"]
    assert Path(args.model_draft).name == "s-Q4_0.gguf"
    draft = flags.of_draft_model(args, 512)
    assert (draft.model, draft.model_name) == (args.model_draft, "")
    server.asked.clear()
    assert models.located(args) == args
    assert not server.asked


def test_m_takes_a_repository_too(server: FakeHub) -> None:
    assert Path(lead("-m", "user/small").model).name == "s-Q8_0.gguf"
    assert Path(lead("-m", "user/small:Q4_0").model).name == "s-Q4_0.gguf"
    assert lead("-md", "user/plain").model_name_draft == "user/plain"
    page = "https://huggingface.co/user/small/blob/main/s-Q4_0.gguf"
    assert Path(lead("-m", page).model).name == Path(lead("-hf", page).model).name == "s-Q4_0.gguf"


def test_other_addresses_of_the_web() -> None:
    with pytest.raises(ModelError, match=r"-m https://example\.com/a\.gguf: download the file first"):
        lead("-m", "https://example.com/a.gguf")


def test_llama_servers_names(server: FakeHub) -> None:
    for words in (
        ["--hf-repo", "user/small", "--hf-file", "s-Q4_0.gguf"],
        ["-hfr", "user/small", "-hff", "s-Q4_0.gguf"],
        ["-hf", "user/small:q4_0"],
        ["--model-draft", "shipped", "--hf-repo=user/small:Q4_0"],
    ):
        assert Path(lead(*words).model).name == "s-Q4_0.gguf"
    assert Path(lead("-hfrd", "user/small", "--offline").model_draft).name == "s-Q4_0.gguf"


def test_the_model_of_a_back(server: FakeHub) -> None:
    args = models.located(back_parser().parse_args(["-hf", "user/small"]))
    assert Path(args.model).name == "s-Q8_0.gguf"
    assert "model_draft" not in args


def test_a_checkpoint_is_loaded_and_called_by_its_repository(server: FakeHub, tmp_path: Path) -> None:
    tiny_transformers.make_model(tmp_path / "made", tiny_transformers.ARCHITECTURES["llama"]())
    server.add("user/tiny", tmp_path / "made")
    server.repositories["user/tiny"]["generation_config.json"] = b'{"temperature": 0.5}'
    args = lead("-hf", "user/tiny", "-t", "1")
    engine = load(args.model, "auto", EngineOptions(threads=1, name=args.model_name))
    assert (engine.name, engine.runtime, engine.sampling) == ("user/tiny", "transformers", {"temperature": 0.5})
    engine.close()
    server.down = 503
    assert lead("-hf", "user/tiny").model == args.model


@pytest.mark.parametrize(("words", "runtime", "count"), [
    ((), "llamacpp", 1), (("-t", "2"), "llamacpp", 2), ((), "transformers", 3),
])  # fmt: skip
def test_a_small_model_in_llama_cpp_gets_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], runtime: str, count: int
) -> None:
    """PyTorch has one number of threads for all models of a process, a large one among them."""
    asked: list[int] = []

    def not_loaded(model: str, runtime: str, options: EngineOptions, progress: object) -> NoReturn:
        asked.append(options.threads)
        raise ModelError("not loaded")

    monkeypatch.setattr(threads, "cores", lambda: 3)
    monkeypatch.setattr("duo.engines.load", not_loaded)
    file = write(tmp_path / "m.gguf", "llama", decoder_tensors(), attention)
    args = lead_parser().parse_args(["-m", str(file), "--engine", runtime, *words])
    with pytest.raises(ModelError, match="not loaded"):
        models.load_engine(args, "target", 8, 1)
    assert asked == [count]


def test_the_runtime_chooses(server: FakeHub) -> None:
    server.repositories["user/both"] = {**server.repositories["user/small"], **server.repositories["user/plain"]}
    assert Path(lead("-hf", "user/both").model).name == "s-Q8_0.gguf"
    assert lead("-hf", "user/both", "--engine", "transformers").model_name == "user/both"
    with pytest.raises(ModelError, match="leave --engine out"):
        lead("-hf", "user/plain", "--engine", "llamacpp")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("-m m.gguf -hf user/small", "-m m.gguf and -hf user/small name two models"),
        ("-md m.gguf -hfd user/small", "-md m.gguf and -hfd user/small name two models"),
        ("--hf-file m.gguf", "-hf names its repository"),
        ("-hf small", "user/repo"),
        ("-hf user/small:Q2_K", "has no Q2_K, but Q4_0, Q8_0"),
        ("-m user/nothing", "there is no file or folder user/nothing here, and as a model of the hub: "),
        ("-m user/small:Q2_K", "there is no file or folder user/small:Q2_K here, and as a model of the hub: "),
        ("-m nobody3:8b", "-m nobody3:8b is a name of Ollama's"),
        ("-md hf.co/user/repo:Q4", "write -hf user/repo:Q4"),
    ],
)
def test_what_is_wrong_is_one_line(server: FakeHub, words: str, line: str) -> None:
    with pytest.raises(ModelError) as error:
        lead(*words.split())
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "huggingface_hub" else find(name))
    with pytest.raises(ModelError, match="-hf needs the package huggingface_hub"):
        lead("-hf", "user/small")


def test_a_model_that_ollama_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = tmp_path / "sha256-0"
    blob.write_bytes(b"GGUF")
    monkeypatch.setattr(ollama, "blob", lambda name: blob if name.name == "qwen3" else None)
    args = lead("-m", "qwen3:8b")
    assert (args.model, args.model_name) == (str(blob), "qwen3:8b")
    assert models.located(args).model_name == "qwen3:8b"
    assert runtime_of(args.model) == "llamacpp"
    assert lead("-m", "user/qwen3:Q4_0").model == str(blob), "and nothing is downloaded"


def test_other_models_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    (tmp_path / "user" / "repo").mkdir(parents=True)
    given: list[Any] = [None, "user/repo", "a:b", "/nowhere/m.gguf", "./no/where", "a/b/c"]
    for model in given:
        assert lead(*(["-m", model] if model else [])).model == model
    assert lead("-md", "shipped").model_draft == "shipped"
