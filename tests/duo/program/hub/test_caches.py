"""The models that other programs have left on this disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from duo.engines import gguf_files
from duo.program.hub import caches
from duo.program.hub.caches import LocalModel, local_models
from duo.program.hub.ollama import Name, names, parse
from tests.support.gguf_headers import header
from tests.support.manifests import pulled


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with nothing in it, and both runtimes installed."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(caches, "find_spec", lambda name: name)
    for variable in ("OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def put(path: Path, size: int, **entries: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    start = header({"general.architecture": "llama", **entries})
    path.write_bytes(start + b"\0" * (size - len(start)))
    return path


def checkpoint(folder: Path, size: int, architecture: str = "LlamaForCausalLM") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "model.safetensors").write_bytes(b"\0" * size)
    return folder


def test_nothing_is_here(home: Path) -> None:
    assert local_models() == []


def test_all_places_smallest_first(home: Path) -> None:
    snapshot = home / "hub" / "models--user--repo" / "snapshots" / "abc"
    of_hub = put(snapshot / "small-Q4_0.gguf", 400)
    folder = checkpoint(home / "hub" / "models--user--plain" / "snapshots" / "def", 300)
    of_studio = put(home / ".lmstudio" / "models" / "maker" / "repo" / "m.gguf", 500)
    of_llama = put(home / ".cache" / "llama.cpp" / "l.gguf", 600)
    mine = put(home / "mine" / "x.gguf", 700)
    name = parse("qwen3:0.6b")
    assert name is not None
    blob = pulled(home / ".ollama" / "models", name)
    put(blob, 200)
    assert local_models(home / "mine") == [
        LocalModel("qwen3:0.6b", blob, 200),
        LocalModel(str(folder), folder, 300),
        LocalModel(str(of_hub), of_hub, 400),
        LocalModel(str(of_studio), of_studio, 500),
        LocalModel(str(of_llama), of_llama, 600),
        LocalModel(str(mine), mine, 700),
    ]


def test_a_file_in_two_places_is_one_model(home: Path) -> None:
    first = put(home / ".cache" / "llama.cpp" / "l.gguf", 400)
    again = home / "mine" / "again.gguf"
    again.parent.mkdir()
    again.symlink_to(first)
    assert [model.path for model in local_models(home / "mine")] == [first]


def test_one_that_ollama_removes_meanwhile(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = parse("qwen3:0.6b")
    assert name is not None
    blob, other = pulled(home / ".ollama" / "models", name), put(home / "mine" / "x.gguf", 400)
    put(blob, 200)
    read = gguf_files.metadata

    def removing(path: Path) -> dict[str, Any]:
        found = read(path)
        blob.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(gguf_files, "metadata", removing)
    assert [model.path for model in local_models(home / "mine")] == [other]


def test_what_cannot_draft_is_left_out(home: Path) -> None:
    put(home / "mine" / "bge.gguf", 400, **{"general.architecture": "bert"})
    put(home / "mine" / "mmproj-model.gguf", 400)
    put(home / "mine" / "lora.gguf", 400, **{"general.type": "adapter"})
    checkpoint(home / "mine" / "encoder", 400, "BertModel")
    (home / "mine" / "damaged.gguf").write_bytes(b"GGUF")
    assert local_models(home / "mine") == []


def test_what_is_damaged_or_not_whole_is_left_out(home: Path) -> None:
    """Being the smaller for it, it would be taken first."""
    mine = home / "mine"
    sound = put(mine / "sound.gguf", 900)
    put(mine / "m-00001-of-00002.gguf", 300)
    (mine / "noise.gguf").write_bytes(b"GGUF" + bytes(range(200)))
    (mine / "gone.gguf").symlink_to(home / "nowhere")
    for number, config in enumerate(("[]", '{"architectures": 5}', "{", "[" * 100_000)):
        (checkpoint(mine / f"odd{number}", 100) / "config.json").write_text(config)
    first, second = (f"model-0000{part}-of-00002.safetensors" for part in (1, 2))
    halves = checkpoint(mine / "halves", 100)
    (halves / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": first, "b": second}}))
    (halves / "model.safetensors").rename(halves / first)
    assert [model.path for model in local_models(mine)] == [sound]
    (halves / second).write_bytes(b"\0")
    put(mine / "m-00002-of-00002.gguf", 300)
    assert {model.path.name for model in local_models(mine)} == {"sound.gguf", "m-00001-of-00002.gguf", "halves"}


def test_only_what_an_installed_runtime_can_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = put(home / "mine" / "x.gguf", 400), checkpoint(home / "mine" / "plain", 300)
    monkeypatch.setattr(caches, "find_spec", lambda name: None if name == "torch" else name)
    assert [model.path for model in local_models(home / "mine")] == [file]
    monkeypatch.setattr(caches, "find_spec", lambda name: None if name == "llama_cpp" else name)
    assert [model.path for model in local_models(home / "mine")] == [folder]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (Name("registry.ollama.ai", "library", "qwen3", "8b"), "qwen3:8b"),
        (Name("registry.ollama.ai", "someone", "m", "latest"), "someone/m:latest"),
        (Name("hf.co", "user", "repo", "Q4_K_M"), "hf.co/user/repo:Q4_K_M"),
    ],
)
def test_names_of_ollama(name: Name, short: str) -> None:
    assert name.short == short
    assert parse(short) == name


def test_a_place_that_may_not_be_looked_into_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look everywhere. So the error is made here."""
    mine, name = put(home / "mine" / "x.gguf", 700), parse("qwen3:0.6b")
    assert name is not None
    pulled(home / ".ollama" / "models", name)
    look, ollama = Path.stat, home / ".ollama"

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.is_relative_to(ollama) or path == home / ".lmstudio" / "models":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    assert [model.path for model in local_models(home / "mine")] == [mine]
    assert names(home / ".ollama" / "models") == []
