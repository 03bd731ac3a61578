"""Which engine serves a GGUF file, and what is said of files that cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

import lead.flags
from bench.harness import processes
from duo.engines import Engine, EngineOptions, load
from duo.engines.base import TREES, Rollback
from duo.engines.llamacpp import native
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.engines.llamacpp.load import load as load_gguf
from duo.engines.llamacpp.states import StateTreeEngine
from duo.engines.options import GPU_ALL, GPU_AUTO
from duo.errors import ModelError
from duo.program import models
from tests.support.gguf_kinds import path_of
from tests.support.tiny_gguf import encoder, encoder_tensors, open_engine, write


def test_properties_and_progress(plain: Path) -> None:
    shares: list[float] = []
    engine = load_gguf(plain, EngineOptions(threads=1, context=100, batch=48), shares.append)
    assert (engine.name, engine.runtime, engine.context, engine.batch) == ("Tiny", "llamacpp", 100, 48)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    engine.close()
    engine.close()
    loaded = load(str(plain), "auto", EngineOptions(threads=1))
    assert (loaded.runtime, loaded.context) == ("llamacpp", 512)
    loaded.close()


def test_an_exception_while_loading_is_not_swallowed(plain: Path) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_gguf(plain, EngineOptions(threads=1), interrupt)


def test_files_that_cannot_be_run(plain: Path, tmp_path: Path) -> None:
    whole = plain.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "stub.gguf").write_bytes(whole[:100])
    (tmp_path / "text.gguf").write_text("hello")
    write(tmp_path / "bert.gguf", "bert", encoder_tensors(), encoder)
    expected = {
        "missing.gguf": "there is no file",
        "cut.gguf": "cannot be loaded: the file is damaged, or not whole",
        "stub.gguf": "cannot be loaded: ",
        "text.gguf": "is not a GGUF file",
        "bert.gguf": "encoder",
        "": "cannot be read",
    }
    for name, reason in expected.items():
        with pytest.raises(ModelError, match=reason) as error:
            open_engine(tmp_path / name)
        assert "\n" not in str(error.value)
        assert "tensor" not in str(error.value)


def test_options_that_cannot_be_met(plain: Path) -> None:
    with pytest.raises(ModelError, match=r"512 .* 513"):
        open_engine(plain, context=513)
    with pytest.raises(ModelError, match="255 slots"):
        open_engine(plain, context=16, slots=256)


def test_needs_no_torch_and_prints_nothing(plain: Path) -> None:
    code = (
        "import sys; from duo.engines import EngineOptions, Row, load\n"
        "engine = load(sys.argv[1], 'llamacpp', EngineOptions(threads=1))\n"
        "engine.forward([Row(0, 0, 1)]); engine.vocabulary.chat([{'role': 'user', 'content': 'a'}])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(plain)], cwd=processes.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_which_engine_serves_a_file(folder: Path) -> None:
    def engine_of(kind: str, **given: Any) -> Engine:
        return load(str(path_of(kind, folder)), "auto", EngineOptions(threads=1, **{"flash_attention": "off", **given}))

    expected: list[tuple[str, dict[str, Any], type[object], Rollback]] = [
        ("llama", {}, LlamaCppEngine, TREES),
        ("llama", {"drafts": True}, LlamaCppEngine, TREES),
        ("llama", {"chains": True, "tree_rows": 40}, ChainEngine, Rollback(False, 40)),
        ("qwen35", {}, ChainEngine, Rollback(False, 8)),
        ("qwen35", {"draft_max": 3}, ChainEngine, Rollback(False, 3)),
        ("qwen35", {"draft_max": 0}, ChainEngine, Rollback(False, 0)),
        ("qwen3next", {"draft_max": 5}, ChainEngine, Rollback(False, 5, replay=True)),
        ("qwen3next", {"draft_max": 0}, ChainEngine, Rollback(False, 0)),
        ("mamba", {"drafts": True}, StateTreeEngine, TREES),
    ]
    for kind, given, of, rollback in expected:
        engine = engine_of(kind, **given)
        assert isinstance(engine, of)
        assert engine.rollback == rollback
        assert ("\n" in engine.note, "is recurrent" in engine.note) == (False, kind != "llama")
        engine.close()


@pytest.mark.parametrize(
    ("gpu", "asked", "layers"),
    [
        (False, 99, 0),
        (False, GPU_ALL, 0),
        (False, GPU_AUTO, 0),
        (False, 0, 0),
        (True, 99, 99),
        (True, GPU_ALL, native.ALL_LAYERS),
        (True, GPU_AUTO, native.ALL_LAYERS),
        (True, 0, 0),
    ],
)
def test_layers_on_a_gpu_that_there_may_be(gpu: bool, asked: int, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: gpu)
    assert native.gpu_layers(asked) == layers


def test_without_a_gpu_layers_for_one_change_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: False)
    flags = ["-m", str(path_of("llama", folder)), "-t", "1", "-c", "64", "-fa", "off", "--exact", "on", "-ngl"]
    for layers, warned in (("99", True), ("all", True), ("auto", False)):
        caplog.clear()
        args = lead.flags.parser().parse_args([*flags, layers])
        engine = models.load_engine(args, "target", 8, 1, chains=True)
        assert isinstance(engine, ChainEngine), "the same bits can be had"
        assert not engine.inexact and not engine.options.gpu_layers
        assert ("sees no GPU" in caplog.text) == warned
        engine.close()
