"""llama.cpp's own server, with and without a draft model."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import requests

from bench.compare.peers import ANSWER_SECONDS, Completion, Peer, PeerError
from bench.harness.models import cache
from bench.harness.processes import free_port, wait_for


def llama_server() -> Path | None:
    """Path of llama.cpp's server: what DUO_LLAMA_SERVER names, or what `build_llama_server` has made, or None."""
    if named := os.environ.get("DUO_LLAMA_SERVER"):
        return Path(named)
    built = _built()
    return built if built.is_file() else None


def _built() -> Path:
    return cache() / f"llama-server-{version('llama-cpp-python')}" / "bin" / "llama-server"


def build_llama_server(say: Callable[[str], None] = print) -> Path:
    """Builds llama.cpp's server from the source of the installed llama-cpp-python, so that its engine is ours.

    This takes some ten minutes on two cores. Raises PeerError if a tool is missing, or a step fails.
    """
    if missing := [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]:
        raise PeerError(f"building llama.cpp needs {' and '.join(missing)}: install cmake and a C++ compiler")
    number = version("llama-cpp-python")
    binary = _built()
    build = binary.parent.parent
    shutil.rmtree(build, ignore_errors=True)  # cmake does not resume a build whose source has moved
    with tempfile.TemporaryDirectory(prefix="llama-server-") as name:
        folder = Path(name)
        say(f"fetching the source of llama-cpp-python {number}")
        only_source = ("--no-binary", "llama-cpp-python", "--no-deps", "--no-cache-dir")
        _step([sys.executable, "-m", "pip", "download", f"llama-cpp-python=={number}", *only_source, "--dest", name])
        with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
        say("building llama-server")
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        # The options of the second line keep it from fetching a page for browsers.
        options = ["CMAKE_BUILD_TYPE=Release", "LLAMA_CURL=OFF", "LLAMA_BUILD_TESTS=OFF"]
        options += ["LLAMA_BUILD_UI=OFF", "LLAMA_USE_PREBUILT_UI=OFF"]
        _step(["cmake", "-S", str(source), "-B", str(build), *generator, *(f"-D{option}" for option in options)])
        _step(["cmake", "--build", str(build), "--target", "llama-server", "-j", str(os.cpu_count() or 1)])
    if not binary.is_file():
        raise PeerError(f"cmake made no {binary}: build llama-server by hand, and set DUO_LLAMA_SERVER to its path")
    # The server finds its libraries beside itself. The rest of the build can go.
    for other in build.iterdir():
        if other != binary.parent:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return binary


def _step(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = "\n".join(done.stdout.decode("utf-8", "replace").splitlines()[-30:])
        raise PeerError(f"{' '.join(command)} failed with {done.returncode}; its last lines:\n{tail}")


def add_flags(p: argparse.ArgumentParser) -> None:
    """It has no flags."""


def main(args: argparse.Namespace) -> int:
    """`python -m bench build-llama-server`."""
    print(f"llama-server is in {build_llama_server()}")
    return 0


class LlamaServer(Peer):
    """llama.cpp's server with one slot and one thread, and with a draft model if one is given.

    kind: of speculation without a draft model, with the server's own settings; empty: none.
    draft_max: tokens of the longest draft. p_min: the probability below which a draft ends. flash_attention: 'auto'
    is the server's default, and means on. context: tokens of prompt and answer; 0: the model's own.
    """

    def __init__(
        self,
        target: str,
        draft: str | None = None,
        *,
        kind: str = "",
        cpus: Collection[int] = (),
        draft_max: int = 8,
        p_min: float = 0.0,
        flash_attention: Literal["auto", "on", "off"] = "auto",
        context: int = 0,
    ) -> None:
        binary = llama_server()
        if binary is None:
            raise PeerError("there is no llama-server: run python -m bench build-llama-server")
        self.port = free_port()
        # It keeps no earlier prompts, so an answer costs the same each time.
        command = [str(binary), "--host", "127.0.0.1", "--port", str(self.port), "--model", target, "--parallel", "1"]
        command += ["--no-cache-prompt", "--cache-ram", "0", "--no-ui", "--offline", "--flash-attn", flash_attention]
        command += ["--threads", "1"]
        if context:
            command += ["--ctx-size", str(context)]
        if kind:
            command += ["--spec-type", kind]
        if draft is not None:
            command += ["--spec-type", "draft-simple", "--spec-draft-model", draft]
            command += ["--spec-draft-n-max", str(draft_max), "--spec-draft-p-min", str(p_min)]
            command += ["--spec-draft-threads", "1"]
        super().__init__(command, cpus)
        self._session = requests.Session()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> Self:
        """Waits until the models are loaded."""
        wait_for(self._healthy, "llama-server's health")
        return self

    def _healthy(self) -> bool:
        if self.process.poll() is not None:
            raise self.ended()
        try:
            return self._session.get(f"{self.url}/health", timeout=10).status_code == 200
        except requests.ConnectionError:
            return False

    def complete(self, prompt: Sequence[int], n: int, temperature: float = 0.0, seed: int = 0) -> Completion:
        """Decodes exactly n tokens after the prompt.

        The server does so by barring tokens that end an answer. Our lead and `Assisted` go on after one instead, so
        the texts differ from there on.
        """
        body = {
            "prompt": list(prompt),
            "n_predict": n,
            "temperature": temperature,
            "seed": seed,
            # The temperature alone: the server has more samplers by default.
            "samplers": ["temperature"],
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        try:
            response = self._session.post(f"{self.url}/completion", json=body, timeout=ANSWER_SECONDS)
        except requests.ConnectionError as error:
            raise self.ended() from error
        if response.status_code != 200:
            raise PeerError(f"llama-server answers {response.status_code}: {response.text[:500]}")
        answer = response.json()
        tokens: list[int] = answer["tokens"]
        if len(tokens) != n:
            raise PeerError(f"llama-server gave {len(tokens)} tokens instead of {n}: {answer.get('stop_type')}")
        # Its clock for decoding starts with the first token. It leaves the counts of drafts out where there were none.
        timings = answer["timings"]
        drafted, accepted = timings.get("draft_n", 0), timings.get("draft_n_accepted", 0)
        return Completion(tokens, timings["predicted_ms"] / 1000, drafted, accepted)

    def close(self) -> None:
        self._session.close()
        super().close()
