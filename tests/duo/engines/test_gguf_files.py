"""Which file a path means: one file, the parts of one model, or a folder with one model in it."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.harness.models import shipped
from duo.engines import ROOT, EngineOptions, Row, load, runtime_of
from duo.engines.gguf_files import locate, metadata, model_name
from duo.errors import ModelError
from tests.support.gguf_copies import copy
from tests.support.gguf_headers import header

PARTS = [f"m-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]


def folder_with(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        (folder / name).write_bytes(b"GGUF")
    return folder


@pytest.mark.parametrize(
    ("names", "given", "loaded"),
    [
        (["m.gguf"], "", "m.gguf"),
        (["m.GGUF", "README.md"], "", "m.GGUF"),
        (["m.gguf", "mmproj-F16.gguf"], "", "m.gguf"),
        (PARTS, "", PARTS[0]),
        (PARTS, PARTS[0], PARTS[0]),
        (PARTS, PARTS[2], PARTS[0]),
        ([*PARTS, "other.gguf"], PARTS[0], PARTS[0]),
        ([*PARTS, "other.gguf"], "other.gguf", "other.gguf"),
        (["m.gguf"], "missing.gguf", "missing.gguf"),
        (["m.gguf", "config.json"], "", "m.gguf"),
    ],
)
def test_the_file_to_load(tmp_path: Path, names: Sequence[str], given: str, loaded: str) -> None:
    folder = folder_with(tmp_path, names)
    assert locate(folder / given) == folder / loaded
    assert runtime_of(str(folder / given)) == "llamacpp"


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (PARTS[:2], "", f", {PARTS[2]} cannot be found: download all"),
        (PARTS[1:], "", f", {PARTS[0]} cannot be found"),
        (PARTS[:1], PARTS[0], f", {PARTS[1]} and 1 more cannot be found"),
        (["a.gguf", "b.gguf"], "", "holds 2 models, name one of them: a.gguf, b.gguf"),
        ([f"{i}.gguf" for i in range(9)], "", "holds 9 models, name one of them: 0.gguf, 1.gguf, "),
        ([*PARTS, "b.gguf"], "", f"holds 2 models, name one of them: b.gguf, {PARTS[0]}"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, names: Sequence[str], given: str, words: str) -> None:
    folder = folder_with(tmp_path, names)
    with pytest.raises(ModelError) as error:
        locate(folder / given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_folder_and_one_of_hugging_face(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \.gguf file"):
        locate(tmp_path)
    assert runtime_of(str(tmp_path)) == "transformers", "whose error says what a folder must hold"
    folder_with(tmp_path, ["a.gguf", "b.gguf", "config.json", "model.safetensors"])
    assert runtime_of(str(tmp_path)) == "transformers", "files of llama.cpp may lie beside it"


@pytest.mark.parametrize(
    ("file", "name"), [("a/m.gguf", "m"), (f"a/{PARTS[1]}", "m-Q4_K_M"), ("a/m.v2.GGUF", "m.v2"), ("a/blob", "blob")]
)
def test_the_name_of_a_model(file: str, name: str) -> None:
    assert model_name(Path(file)) == name


def test_a_damaged_header_gives_what_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    sound, rng = header({"general.architecture": "llama", "general.type": "model"}), random.Random(1)
    for _ in range(50):
        damaged = bytearray(sound)
        for at in rng.sample(range(24, len(sound)), 3):
            damaged[at] = rng.choice((0, 8, 9, 255))
        file.write_bytes(damaged)
        assert len(metadata(file)) <= 2
    nested = struct.pack("<IQ", 9, 1) * 5000
    file.write_bytes(header({"general.architecture": "llama"}) + struct.pack("<Q1sI", 1, b"k", 9) + nested)
    with file.open("r+b") as opened:
        opened.seek(16)
        opened.write(struct.pack("<Q", 2))
    assert metadata(file) == {"general.architecture": "llama"}, "arrays in arrays without end"


def test_a_model_in_parts_loads_by_its_folder_and_by_any_part(tmp_path: Path) -> None:
    whole = Path(shipped("draft", "llamacpp"))
    copy(whole, tmp_path / "m.gguf", parts=3)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    logits = []
    for given in (whole, tmp_path, files[0], files[2]):
        engine = load(str(given), "auto", EngineOptions(threads=1, context=64))
        assert engine.name == (whole.stem if given == whole else "m")
        logits.append(engine.forward([Row(0, 0, 5, ROOT)]).copy())
        engine.close()
    assert all((other == logits[0]).all() for other in logits[1:])
    files[1].unlink()
    with pytest.raises(ModelError, match=r"m-00002-of-00003\.gguf cannot be found"):
        load(str(tmp_path), "auto", EngineOptions(threads=1, context=64))
