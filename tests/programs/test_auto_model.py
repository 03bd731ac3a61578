"""A back that finds its draft model itself, and one that is told which would do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.harness.models import shipped
from bench.harness.processes import BackProcess, LeadProcess
from tests.support.tiny_gguf import attention, decoder_tensors, write

pytestmark = pytest.mark.slow


def test_a_refused_back_and_one_with_m_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, home = tmp_path / "models", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    shutil.copyfile(shipped("target", "llamacpp"), folder / "larger.gguf")
    shutil.copyfile(shipped("draft", "llamacpp"), folder / "smaller.gguf")
    other = write(folder / "another.gguf", "llama", decoder_tensors(), attention)
    target = shipped("target", "llamacpp")
    for variable in ("HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(home))
    for variable in ("HF_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    flags = ("-t", "1", "--models-dir", str(folder))
    with LeadProcess("-m", target, "--threads", "1", "--print-mode", "none") as lead:
        lead.ready()
        with BackProcess(lead.back_port, "-m", str(other), *flags) as back:
            back.says("has another vocabulary than the target model")
            back.says(f"models here with the lead's vocabulary, smallest first: -m {folder / 'smaller.gguf'} (")
        with BackProcess(lead.back_port, "-m", "auto", *flags) as back:
            back.says(f"-m auto: {folder / 'smaller.gguf'} is the smallest model here")
            back.says("joined the lead")
            lead.has_backs(1)
            lead.says("looks for a draft model with this vocabulary")
