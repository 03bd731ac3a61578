"""Others' speculative decoding, to measure ours against: llama.cpp's own server and transformers' assisted generation.

Both run in a process of their own, pinned to given cores, answer one prompt at a time with exactly as many tokens as
asked for, and report the seconds of decoding alone: those between the first token and the last, as `Completion` says.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal, Self

import requests

from bench.harness.processes import ROOT, Program, free_port, pinned, wait_for
from duo.errors import DuoError

LONGEST = 600.0
"""Seconds after which an answer has failed. Large models on one busy core are slow."""

Schedule = Literal["constant", "heuristic"]


class PeerError(DuoError):
    """A peer is missing or does not run; the message says why and what to do."""


@dataclass(frozen=True)
class Completion:
    """The answer to one prompt.

    seconds: for `len(tokens) - 1` tokens, those after the first, which is the end of the prefill. drafted, accepted:
    guesses that the target has checked, and those of them that became tokens of the answer.
    """

    tokens: list[int]
    seconds: float
    drafted: int = 0
    accepted: int = 0


class Peer(Program):
    """Any program in a process of its own. Unlike ours it may start threads at once, so it is pinned from the start."""

    def __init__(self, command: Sequence[str], cpus: Collection[int], talks: bool = False) -> None:
        """`talks`: its standard input and output are for us, and only what it says on standard error is its log."""
        self.command = list(command)
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        try:
            with pinned(cpus):
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if talks else self._out,
                    stderr=self._out,
                    env={**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"},
                )
        except OSError as error:
            self._out.close()
            raise PeerError(f"{self.command[0]} cannot be started: {error.strerror}") from error

    def ended(self) -> PeerError:
        return PeerError(f"{' '.join(self.command)} ended with {self.process.poll()}:\n{self.log[-3000:]}")


# --- llama.cpp's server


def llama_server() -> Path | None:
    """llama.cpp's server: what DUO_LLAMA_SERVER names, else what `build_llama_server` has made, or None."""
    if named := os.environ.get("DUO_LLAMA_SERVER"):
        return Path(named)
    built = _built()
    return built if built.is_file() else None


def _built() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duo"
    return cache / f"llama-server-{version('llama-cpp-python')}" / "bin" / "llama-server"


def build_llama_server(say: Callable[[str], None] = print) -> Path:
    """Build llama.cpp's server from the source package of the installed llama-cpp-python: the same engine as ours.

    Takes some ten minutes on two cores. Raises PeerError if something that it needs is missing, or a step fails.
    """
    if missing := [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]:
        raise PeerError(f"building llama.cpp needs {' and '.join(missing)}: install cmake and a C++ compiler")
    number = version("llama-cpp-python")
    binary = _built()
    build = binary.parent.parent
    shutil.rmtree(build, ignore_errors=True)  # cmake does not take up a build whose source has moved
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
        # The second line is what it would fetch for a browser.
        options = ["CMAKE_BUILD_TYPE=Release", "LLAMA_CURL=OFF", "LLAMA_BUILD_TESTS=OFF"]
        options += ["LLAMA_BUILD_UI=OFF", "LLAMA_USE_PREBUILT_UI=OFF"]
        _step(["cmake", "-S", str(source), "-B", str(build), *generator, *(f"-D{option}" for option in options)])
        _step(["cmake", "--build", str(build), "--target", "llama-server", "-j", str(os.cpu_count() or 1)])
    if not binary.is_file():
        raise PeerError(f"cmake made no {binary}: build llama-server by hand, and set DUO_LLAMA_SERVER to its path")
    # It finds its libraries beside itself, by this place's name; all else that was made on the way can go.
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
    """There is nothing to choose."""


def main(args: argparse.Namespace) -> int:
    """`python -m bench build-llama-server`."""
    print(f"llama-server is in {build_llama_server()}")
    return 0


class LlamaServer(Peer):
    """llama.cpp's server with one slot, and with a draft model if one is given.

    threads: of the target and of the draft, which take turns; 0: llama.cpp's own choice. draft_max, p_min: its settings
    of these names, the longest draft and the probability below which a draft ends. flash_attention: 'auto' is the
    server's own setting and means on. context: tokens of prompt and answer; 0: the model's own.
    """

    def __init__(
        self,
        target: str,
        draft: str | None = None,
        *,
        cpus: Collection[int] = (),
        threads: int = 1,
        draft_max: int = 8,
        p_min: float = 0.0,
        flash_attention: Literal["auto", "on", "off"] = "auto",
        context: int = 0,
    ) -> None:
        binary = llama_server()
        if binary is None:
            raise PeerError("there is no llama-server: run python -m bench build-llama-server")
        self.port = free_port()
        # No memory of earlier prompts, so that each answer costs the same however often it is asked for.
        command = [str(binary), "--host", "127.0.0.1", "--port", str(self.port), "--model", target, "--parallel", "1"]
        command += ["--no-cache-prompt", "--cache-ram", "0", "--no-ui", "--offline", "--flash-attn", flash_attention]
        if threads:
            command += ["--threads", str(threads)]
        if context:
            command += ["--ctx-size", str(context)]
        if draft is not None:
            command += ["--spec-type", "draft-simple", "--spec-draft-model", draft]
            command += ["--spec-draft-n-max", str(draft_max), "--spec-draft-p-min", str(p_min)]
            if threads:
                command += ["--spec-draft-threads", str(threads)]
        super().__init__(command, cpus)
        self._session = requests.Session()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> Self:
        """Wait until the models are loaded."""
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
        """Exactly n tokens after the prompt.

        To get that many, the server bars the tokens that end an answer; our lead and `Assisted` go on behind them. The
        texts part ways there.
        """
        body = {
            "prompt": list(prompt),
            "n_predict": n,
            "temperature": temperature,
            "seed": seed,
            # Only the temperature: everything else that it would do to the probabilities by default is left out.
            "samplers": ["temperature"],
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        try:
            response = self._session.post(f"{self.url}/completion", json=body, timeout=LONGEST)
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


# --- transformers' assisted generation


class Assisted(Peer):
    """transformers' `generate`, with an assistant model if a draft is given.

    dtype: torch's name, or 'auto', which is what our engine chooses on a CPU: float32.
    """

    def __init__(
        self,
        target: str,
        draft: str | None = None,
        *,
        cpus: Collection[int] = (),
        threads: int = 1,
        dtype: str = "auto",
    ) -> None:
        command = [sys.executable, "-m", "bench.compare.peers", "--target", target, "--threads", str(threads)]
        command += ["--dtype", dtype, *(["--draft", draft] if draft is not None else [])]
        super().__init__(command, cpus, talks=True)
        self._loaded = False

    def ready(self) -> Self:
        """Wait until the models are loaded and have run once."""
        if not self._loaded:
            self._answer()
            self._loaded = True
        return self

    def complete(
        self,
        prompt: Sequence[int],
        n: int,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        num_assistant_tokens: int = 20,
        threshold: float | None = None,
        schedule: Schedule = "constant",
    ) -> Completion:
        """Exactly n tokens after the prompt; tokens that end an answer do not end this one.

        num_assistant_tokens, schedule: the longest draft, and whether it changes from step to step ('heuristic', from
        this number anew for each answer). threshold: the probability below which a draft ends, None for never; the
        library's own settings are 20, 'constant' and 0.4.

        The clock runs from the end of the first step to the end of the last. With a draft the first step, which is the
        prefill of both models too, gives several tokens at once; the time is stretched as if it had given one.
        """
        self.ready()
        request = _Request(list(prompt), n, temperature, seed, num_assistant_tokens, threshold or 0.0, schedule)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self.ended() from error
        return Completion(**self._answer())

    def _answer(self) -> dict[str, Any]:
        """The worker's next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise self.ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"transformers: {answer['error']}")
        return answer

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # something unsent, to a worker that has ended
                    pipe.close()
        super().close()


@dataclass(frozen=True)
class _Request:
    """What `Assisted` asks of its worker."""

    prompt: list[int]
    n: int
    temperature: float
    seed: int
    num_assistant_tokens: int
    threshold: float
    schedule: str


class _Stopwatch:
    """A streamer of transformers: notes when each step ended and how many tokens it gave. The prompt comes first."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.counts: list[int] = []

    def put(self, value: Any) -> None:
        self.ends.append(time.perf_counter())
        self.counts.append(value.numel())

    def end(self) -> None:
        pass


class _Worker:
    """The models, in the process that `Assisted` starts."""

    def __init__(self, target: str, draft: str | None, threads: int, dtype: str) -> None:
        # Only here: whoever measures llama.cpp needs no torch.
        import torch
        import transformers

        self._torch, self._transformers = torch, transformers
        if threads:
            torch.set_num_threads(threads)
        self._dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        self._target = self._load(target)
        self._draft = self._load(draft) if draft is not None else None
        self._widths: list[int] = []
        self._target.register_forward_pre_hook(self._note, with_kwargs=True)

    def _load(self, model: str) -> Any:
        loader: Any = self._transformers.AutoModelForCausalLM
        loaded = loader.from_pretrained(model, dtype=self._dtype, use_safetensors=True).eval()
        # What says nothing about ends takes them from here, where there are to be none.
        loaded.generation_config.eos_token_id = None
        return loaded

    def _note(self, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """How many rows the target is given in a step."""
        self._widths.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).shape[1])

    def complete(self, request: _Request) -> Completion:
        torch = self._torch
        self._transformers.set_seed(request.seed)
        options: dict[str, Any] = {"max_new_tokens": request.n, "do_sample": request.temperature > 0}
        if request.temperature > 0:
            # Only the temperature, and not the library's top_k of 50.
            options |= {"temperature": request.temperature, "top_k": 0, "top_p": 1.0}
        if self._draft is not None:
            config = self._draft.generation_config
            config.num_assistant_tokens = request.num_assistant_tokens
            config.num_assistant_tokens_schedule = request.schedule
            config.assistant_confidence_threshold = request.threshold
            options["assistant_model"] = self._draft
        watch = _Stopwatch()
        self._widths.clear()
        ids = torch.tensor([request.prompt])
        with torch.inference_mode():
            out = self._target.generate(ids, attention_mask=torch.ones_like(ids), streamer=watch, **options)
        tokens: list[int] = out[0, len(request.prompt) :].tolist()
        ends, counts = watch.ends[1:], watch.counts[1:]
        if len(tokens) != request.n or sum(counts) != request.n:
            raise ValueError(f"{len(tokens)} tokens instead of {request.n}")
        timed = request.n - counts[0]
        if not timed:
            raise ValueError(f"all {request.n} tokens came in the first step: ask for more")
        seconds = (ends[-1] - ends[0]) * (request.n - 1) / timed
        drafted = sum(self._widths) - len(request.prompt) - (len(self._widths) - 1)
        return Completion(tokens, seconds, drafted, request.n - len(counts))

    def warm(self) -> None:
        """Once through all that is set up at the first time."""
        self.complete(_Request([1, 2, 3], 12, 0.0, 0, 2, 0.0, "constant"))


def _serve() -> None:
    """The process that `Assisted` talks to: a request per line, an answer per line, and the end with the input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    args = parser.parse_args()
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requested: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            requested.put(line)
        os._exit(0)  # whoever started this is gone: also in the middle of an answer

    threading.Thread(target=listen, daemon=True).start()

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")

    try:
        worker = _Worker(args.target, args.draft, args.threads, args.dtype)
        worker.warm()
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        os._exit(1)  # the other thread waits for input and would be in the way of an ordinary end
    say({"ready": True})
    while True:
        request = _Request(**json.loads(requested.get()))
        try:
            say(asdict(worker.complete(request)))
        except Exception as error:  # whatever the library raises, the next request may be better
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    _serve()
