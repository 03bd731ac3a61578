"""Which model on this disk a back could draft with."""

from __future__ import annotations

from pathlib import Path

import pytest

from back import choosing
from duo.engines import memory
from duo.engines.meaning import Meanings, sample
from duo.errors import FileError, ModelError
from duo.program.hub.caches import LocalModel

OURS: Meanings = [b"%d" % token for token in range(1000)]
MODELS = {"tiny": 1, "small": 2, "large": 3, "other": 0, "broken": 0}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def meanings(path: str) -> Meanings:
        if path == "broken":
            raise ModelError("llama.cpp cannot read it")
        return OURS if path != "other" else OURS[::-1]

    found = [LocalModel(f"{name}.gguf", Path(name), size << 30) for name, size in MODELS.items()]
    monkeypatch.setattr(choosing, "local_models", lambda folder: sorted(found, key=lambda model: model.bytes))
    monkeypatch.setattr(choosing, "meanings_in", meanings)
    monkeypatch.setattr(choosing, "places", lambda folder: [Path("/")])


TARGET = sample(OURS, "fp")


def test_the_folder_of_models(tmp_path: Path) -> None:
    assert choosing.folder("") is None
    assert choosing.folder(str(tmp_path)) == tmp_path
    with pytest.raises(FileError, match="--models-dir /no/where: there is no such folder"):
        choosing.folder("/no/where")


def test_the_smallest_with_the_vocabulary(disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 4 << 30)
    assert choosing.choose(TARGET, None).name == "tiny.gguf"


def test_one_that_does_not_fit(disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1 << 29)
    with pytest.raises(ModelError, match=r"tiny\.gguf is the smallest .* 1\.0 GiB do not fit into the 512 MiB"):
        choosing.choose(TARGET, None)


def test_a_refused_back_names_what_would_do(disk: None) -> None:
    assert choosing.advice(TARGET, None) == (
        "models here with the lead's vocabulary, smallest first: -m tiny.gguf (1.0 GiB), -m small.gguf (2.0 GiB), "
        "-m large.gguf (3.0 GiB); -m auto takes the first one"
    )


def test_a_named_model_can_be_copied(disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a shell, which takes a path with a space for two words."""
    found = LocalModel("/my models/tiny.gguf", Path("tiny"), 1 << 30)
    monkeypatch.setattr(choosing, "local_models", lambda folder: [found])
    assert "-m '/my models/tiny.gguf' (1.0 GiB)" in choosing.advice(TARGET, None)


def test_the_target_itself_is_no_draft(disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything that is hardly smaller."""
    monkeypatch.setattr(memory, "available", lambda: 9 << 30)
    sized = sample(OURS, "fp", 5 << 30)
    assert [model.name for model in choosing.suitable(sized, None)] == ["tiny.gguf", "small.gguf"]
    same = sample(OURS, "fp", 1 << 30)
    with pytest.raises(
        ModelError, match=r"no model here has the target's vocabulary and at most half of its 1\.0 GiB \("
    ):
        choosing.choose(same, None)
    assert choosing.advice(same, None).startswith("no model here has the lead's vocabulary and at most half of its 1.0")


def test_the_only_one_may_be_the_target(
    disk: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lead of an older release does not say how large its target is."""
    monkeypatch.setattr(memory, "available", lambda: 9 << 30)
    choosing.choose(TARGET, None)
    assert not caplog.text
    monkeypatch.setattr(choosing, "local_models", lambda folder: [LocalModel("one.gguf", Path("one"), 1)])
    assert choosing.choose(TARGET, None).name == "one.gguf"
    assert "one.gguf is the only model here with its vocabulary: if that is the target itself" in caplog.text


def test_none(disk: None) -> None:
    strange = sample([b"x%d" % token for token in range(1000)], "strange")
    with pytest.raises(ModelError, match=r"no model here has the target's vocabulary \(searched: /\): give one"):
        choosing.choose(strange, None)
    assert choosing.advice(strange, None).startswith("no model here has the lead's vocabulary (searched: /)")
