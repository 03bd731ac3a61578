"""What is remembered of a model holds for these files, this runtime, this processor and these threads alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from duo.engines import EngineOptions, conditions, store, threads
from duo.engines.exact.widths import WidthClass, without_unsteady

OPTIONS = EngineOptions(threads=1)


def about(model: Path | str, runtime: str = "llamacpp", options: EngineOptions = OPTIONS) -> list[object]:
    return conditions.conditions(str(model), runtime, options)


def test_a_file_is_known_by_more_than_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        (folder / "model.gguf").write_bytes(b"GGUF")
    found = []
    for folder in folders:
        monkeypatch.chdir(folder)
        found.append(about("model.gguf"))
        assert found[-1] == about("model.gguf") == about(folder / "model.gguf")
    (folders[1] / "model.gguf").write_bytes(b"GGUF and more")
    found.append(about("model.gguf"))
    os.utime("model.gguf", ns=(1, 1))
    found.append(about("model.gguf"))
    assert all(a != b for at, a in enumerate(found) for b in found[:at])


def test_the_same_content_is_known_anywhere(tmp_path: Path) -> None:
    content = bytes(i * 7 % 251 for i in range(6 << 20))
    (tmp_path / "here").mkdir()
    one, other = tmp_path / "a.gguf", tmp_path / "here" / "a.gguf"
    one.write_bytes(content)
    other.write_bytes(content)
    found = conditions.fingerprint([one])
    assert conditions.fingerprint([other]) == found
    for changed in (b"x" + content[1:], content[:-1] + b"x", content + b"x", b""):
        other.write_bytes(changed)
        assert conditions.fingerprint([other]) != found
    assert conditions.fingerprint([one, other]) not in (found, conditions.fingerprint([other]))


def test_all_files_of_a_model_count(tmp_path: Path) -> None:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    for model, runtime, names in [
        (tmp_path / "m-00002-of-00002.gguf", "llamacpp", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]),
        (tmp_path, "transformers", ["config.json", "model.safetensors"]),
    ]:
        for name in names:
            before = about(model, runtime)
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"x")
            assert about(model, runtime) != before, name
    before = about(tmp_path, "transformers")
    (tmp_path / "README.md").write_bytes(b"xx")
    assert about(tmp_path, "transformers") == before


def test_what_no_file_is_known_of_is_not_remembered() -> None:
    assert about("nobody/has-this-one", "transformers") != about("nobody/has-this-one", "transformers")


@pytest.mark.parametrize("runtime", ["llamacpp", "transformers"])
def test_the_version_of_the_runtime_counts(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    (tmp_path / "config.json").write_bytes(b"{}")
    model = path if runtime == "llamacpp" else tmp_path
    before = about(model, runtime)
    monkeypatch.setattr(conditions, "version", lambda package: "another")
    assert about(model, runtime) != before


def test_the_threads_that_run_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 0 threads asked for, their number follows from the cores of the process."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(threads, "cores", lambda cores=cores: cores)
        found.append(about(path, options=EngineOptions()))
        assert about(path, options=EngineOptions(threads=cores)) == found[-1]
    assert found[0] != found[1]


CPUINFO = """processor\t: 0
model name\t: {name}
cpu MHz\t\t: {mhz}
flags\t\t: {flags}

processor\t: 1
model name\t: another
"""


def test_the_processor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def on(name: str = "A", mhz: str = "1.0", flags: str = "fpu avx2") -> int:
        processor = store.processor_in(CPUINFO.format(name=name, mhz=mhz, flags=flags))
        monkeypatch.setattr(store, "machine", lambda: [processor])
        taken.append(0)
        measured: Callable[[], Any] = lambda: len(taken)  # noqa: E731
        return cast("int", store.remembered("test", [1], lambda found: int(cast("Any", found)), measured, int))

    taken: list[int] = []
    assert [on(), on(mhz="2.0"), on("B"), on(flags="fpu"), on()] == [1, 1, 3, 4, 1]


def test_a_switch_of_kernels_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store.remember("test", [1], "plain")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert store.known("test", [1], str) is None


def test_what_is_left_of_a_class() -> None:
    assert without_unsteady(WidthClass(1, 32), ()) == WidthClass(1, 32)
    assert without_unsteady(WidthClass(1, 1), (1,)) is None and without_unsteady(None, (1,)) is None
    assert without_unsteady(WidthClass(4, 8, 4), (4,)) == WidthClass(8, 8, 1)
