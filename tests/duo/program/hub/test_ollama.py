"""Names of Ollama's, and the files behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

from duo.program.hub.ollama import Name, advice, blob, folders, parse
from tests.support.manifests import pulled


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("qwen3:8b", Name("registry.ollama.ai", "library", "qwen3", "8b")),
        ("qwen2.5-coder:7b-q4_K_M", Name("registry.ollama.ai", "library", "qwen2.5-coder", "7b-q4_K_M")),
        ("someone/model:latest", Name("registry.ollama.ai", "someone", "model", "latest")),
        ("hf.co/user/repo:Q4_K_M", Name("hf.co", "user", "repo", "Q4_K_M")),
        ("hf.co/user/repo", Name("hf.co", "user", "repo", "latest")),
        ("registry.ollama.ai/library/qwen3:8b", Name("registry.ollama.ai", "library", "qwen3", "8b")),
    ],
)  # fmt: skip
def test_names(text: str, name: Name) -> None:
    assert parse(text) == name


@pytest.mark.parametrize(
    "text", ["gpt2", "user/repo", "models/m.gguf", "./qwen3:8b", "/a:b", "a b:c", "", "..:x", "a:b:c"]
)
def test_other_things(text: str) -> None:
    assert parse(text) is None


def test_the_blob_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = parse("qwen3:8b")
    assert name is not None
    assert blob(name, [tmp_path]) is None
    found = pulled(tmp_path, name)
    assert blob(name, [tmp_path / "nothing", tmp_path]) == found
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    assert folders()[0] == tmp_path
    assert blob(name) == found
    assert blob(name._replace(tag="14b"), [tmp_path]) is None


@pytest.mark.parametrize("digest", ["sha256:../../secret", "md5:00", 7])
def test_a_strange_manifest_is_none(tmp_path: Path, digest: str) -> None:
    name = Name("registry.ollama.ai", "library", "qwen3", "8b")
    pulled(tmp_path, name, digest)
    assert blob(name, [tmp_path]) is None


def test_a_blob_that_is_gone(tmp_path: Path) -> None:
    name = Name("registry.ollama.ai", "library", "qwen3", "8b")
    pulled(tmp_path, name).unlink()
    assert blob(name, [tmp_path]) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("qwen3:8b", "write -hf user/repo:quant"),
        ("hf.co/user/repo:Q4_K_M", "write -hf user/repo:Q4_K_M"),
        ("hf.co/user/repo", "write -hf user/repo"),
        ("registry.ollama.ai/someone/m:8b", "ollama pull registry.ollama.ai/someone/m:8b first"),
    ],
)
def test_advice(text: str, words: str) -> None:
    name = parse(text)
    assert name is not None
    assert words in advice(text, name)
