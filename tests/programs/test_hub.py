"""A lead and a back with models of a hub: downloaded, broken off by a kill, and from the cache without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import transformers

from bench.harness.processes import ROOT, BackProcess, LeadProcess, wait_for
from duo.program.hub.choice import Source, Wanted
from duo.program.hub.download import Hub
from tests.support import tiny_gguf
from tests.support.hub import FakeHub, checksum, serving_hub
from tests.support.tiny_transformers import SHAPE, make_model, make_tokenizer

pytestmark = pytest.mark.slow

GREEDY = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each repository."""

    def described(writer: Any) -> None:
        tiny_gguf.attention(writer)
        writer.add_sampling_temp(0.6)
        writer.add_sampling_top_k(20)

    folder = tmp_path_factory.mktemp("repositories")
    gguf = folder / "tiny"
    gguf.mkdir()
    for quant in ("Q4_K_M", "Q8_0"):
        tiny_gguf.write(gguf / f"tiny-{quant}.gguf", "llama", tiny_gguf.decoder_tensors(), described)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    make_model(checkpoint, transformers.LlamaConfig(**SHAPE), make_tokenizer())
    return folder


@pytest.fixture
def hub(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving_hub() as server:
        for folder in models.iterdir():
            server.add(f"user/{folder.name}", folder)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def test_a_gguf_by_its_quantisation_and_the_same_as_a_draft(hub: FakeHub) -> None:
    with LeadProcess(
        "-hf", "user/tiny:Q8_0", "-hfd", "user/tiny", "-t", "1", "--exact", "off", "--min-p", "0.05"
    ) as lead:
        lead.ready()
        assert "downloading tiny-Q8_0.gguf of user/tiny" in lead.log
        assert "tiny-Q4_K_M on llamacpp drafts here" in lead.log
        assert lead.ask("Hello", **GREEDY).usage["completion_tokens"] == 8
        props = requests.get(f"{lead.url}/props", timeout=60).json()
        params = props["default_generation_settings"]["params"]
        assert (params["top_k"], params["min_p"], round(params["temperature"], 6)) == (20, 0.05, 0.6)
        origins = props["sampling_from"]
        assert (origins["temperature"], origins["min_p"], origins["top_p"]) == ("model", "flag", "lead")
        with BackProcess(lead.back_port, "-hf", "user/tiny:Q4_K_M", "-t", "1"):
            lead.has_backs(1)
            lead.ask("Hello", **GREEDY)


def test_a_repository_of_safetensors(hub: FakeHub) -> None:
    with LeadProcess("-hf", "user/checkpoint", "-t", "1", "--exact", "off") as lead:
        lead.ready()
        assert "downloading model.safetensors of user/checkpoint" in lead.log
        assert "user/checkpoint on transformers" in lead.log
        assert lead.ask("Hello", **GREEDY).usage["completion_tokens"] == 8


def test_killed_in_the_middle_and_started_again(hub: FakeHub, tmp_path: Path) -> None:
    content = hub.repositories["user/tiny"]["tiny-Q8_0.gguf"]
    cut = len(content) // 2
    hub.breaks["tiny-Q8_0.gguf"] = [cut]
    hub.held.add("tiny-Q8_0.gguf")
    blobs = tmp_path / "hub" / "models--user--tiny" / "blobs"
    part = blobs / f"{checksum('tiny-Q8_0.gguf', content)}.duo-part"
    with LeadProcess("-hf", "user/tiny:Q8_0", "-t", "1", "--exact", "off") as lead:
        wait_for(lambda: part.is_file() and part.stat().st_size > cut // 2, "half of the file")
        assert requests.get(f"{lead.url}/health", timeout=60).status_code == 503, "it listens while it downloads"
        lead.kill()
    kept = part.stat().st_size
    with LeadProcess("-hf", "user/tiny:Q8_0", "-t", "1", "--exact", "off") as lead:
        lead.ready()
        assert "going on with tiny-Q8_0.gguf" in lead.log
        assert hub.downloads("tiny-Q8_0.gguf") == [None, f"bytes={kept}-"]
        assert lead.ask("Hello", **GREEDY).usage["completion_tokens"] == 8


def test_without_a_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(Source(hub.url, Path(os.environ["HF_HUB_CACHE"]))).get(Wanted("user/tiny", "Q8_0"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with LeadProcess("-hf", "user/tiny:Q8_0", "-t", "1", "--exact", "off") as lead:
        lead.ready()
        (line,) = [line for line in lead.log.splitlines() if "from the cache" in line]
        assert "tiny-Q8_0.gguf from the cache: http://127.0.0.1:9 cannot be reached" in line
        assert lead.ask("Hello", **GREEDY).usage["completion_tokens"] == 8


def last_line(program: str, model: str) -> str:
    """The one line with which a program ends that cannot have its model."""
    ports = ("--port", "0", "--back-port", "0") if program == "lead" else ()
    command = [sys.executable, "-m", program, "-hf", model, *ports]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("program", ["lead", "back"])
def test_what_is_not_there_ends_the_program_with_a_line(hub: FakeHub, program: str) -> None:
    assert last_line(program, "user/tiny:Q2_K") == "error: user/tiny has no Q2_K, but Q4_K_M, Q8_0"


def test_a_wrong_checksum_ends_the_program_with_a_line(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong["tiny-Q8_0.gguf"] = hub.repositories["user/tiny"]["tiny-Q8_0.gguf"][:-1] + b"?"
    assert "tiny-Q8_0.gguf came with another size or checksum" in last_line("lead", "user/tiny:Q8_0")
    assert not list((tmp_path / "hub").rglob("*.duo-part")), "it is thrown away"
