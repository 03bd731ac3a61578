"""Models that cannot run, and contexts that do not fit: one line, exit code 1, nothing left running."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from bench.harness.models import shipped
from bench.harness.processes import ROOT
from duo.engines import EngineOptions, load
from duo.errors import ModelError
from tests.support.gguf_copies import copy

DRAFT = Path(shipped("draft", "llamacpp"))
Make = Callable[[Path], Path]


def of_an_unknown_architecture(folder: Path) -> Path:
    copy(DRAFT, folder / "m.gguf", changes={"general.architecture": "tomorrow"})
    return folder / "m.gguf"


def of_an_unknown_type(folder: Path) -> Path:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "tomorrow", "architectures": ["TomorrowForCausalLM"]})
    )
    save_file({}, folder / "model.safetensors")
    return folder


def truncated(folder: Path) -> Path:
    whole = DRAFT.read_bytes()
    (folder / "m.gguf").write_bytes(whole[: len(whole) * 2 // 3])
    return folder / "m.gguf"


def damaged(folder: Path) -> Path:
    """Its list of tensors is noise."""
    whole = bytearray(DRAFT.read_bytes())
    at = whole.find(b"token_embd.weight")
    whole[at - 8 : at + 200] = random.Random(0).randbytes(208)
    (folder / "m.gguf").write_bytes(whole)
    return folder / "m.gguf"


def without_a_part(folder: Path) -> Path:
    copy(DRAFT, folder / "m.gguf", parts=3)
    (folder / "m-00003-of-00003.gguf").unlink()
    return folder


def of_a_long_context(folder: Path) -> Path:
    """It says that it was made for a thousand million tokens."""
    copy(DRAFT, folder / "m.gguf", changes={"llama.context_length": 10**9})
    return folder / "m.gguf"


CASES: list[tuple[Make, int, str]] = [
    (of_an_unknown_architecture, 64, "a model of type tomorrow, which llama.cpp"),
    (of_an_unknown_type, 64, "tomorrow"),
    (truncated, 64, "the file is damaged, or not whole; download it again"),
    (damaged, 64, "download it again"),
    (without_a_part, 64, "m-00003-of-00003.gguf cannot be found"),
    (of_a_long_context, 10**9, "needs "),
]


@pytest.mark.parametrize(("make", "context", "words"), CASES, ids=lambda one: getattr(one, "__name__", ""))
def test_it_is_refused_in_a_line(tmp_path: Path, make: Make, context: int, words: str) -> None:
    with pytest.raises(ModelError) as error:
        load(str(make(tmp_path)), "auto", EngineOptions(threads=1, context=context))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


def test_a_context_that_fits_is_chosen_where_none_is_asked_for(tmp_path: Path) -> None:
    """A thousand million tokens do not fit. What is taken then is no more than loading has the time for."""
    engine = load(str(of_a_long_context(tmp_path)), "auto", EngineOptions(threads=1, slots=2))
    assert 4096 <= engine.context <= (1 << 17) // 2
    assert "2 slots of" in engine.note and "of 1,000,000,000 that it was made for" in engine.note
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "make", "context", "words"),
    [("lead", *CASES[5]), ("lead", *CASES[2]), ("back", *CASES[4]), ("back", *CASES[0])],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_program_ends_with_that_line(tmp_path: Path, program: str, make: Make, context: int, words: str) -> None:
    ports = ("--port", "0", "--back-port", "0") if program == "lead" else ()
    command = [sys.executable, "-m", program, "-m", str(make(tmp_path)), "-c", str(context), "-t", "1", *ports]
    # It ends, or this would: `run` waits until nobody has its output open, children included.
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "Traceback" not in ended.stderr
