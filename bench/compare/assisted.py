"""transformers' assisted generation and prompt lookup, in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from bench.compare.peers import Completion, Peer, PeerError


class Assisted(Peer):
    """transformers' `generate` with an assistant model, in float32 as our engine has it on a CPU.

    Without a draft it looks for the last tokens in the prompt and the answer (`prompt_lookup_num_tokens`).
    """

    def __init__(
        self,
        target: str,
        draft: str,
        *,
        cpus: Collection[int] = (),
        threads: int = 1,
    ) -> None:
        models = ("--target", target, "--draft", draft)
        command = [sys.executable, "-m", "bench.compare.assisted", *models, "--threads", str(threads)]
        super().__init__(command, cpus, talks=True)

    def ready(self) -> Self:
        """Waits until the models are loaded and have run once."""
        self._answer()
        return self

    def complete(
        self, prompt: Sequence[int], n: int, temperature: float, seed: int, draft_max: int, p_min: float
    ) -> Completion:
        """Decodes exactly n tokens after the prompt. Tokens that end an answer do not end this one.

        draft_max: tokens of the longest draft. p_min: the probability below which a draft ends. The library has 20 and
        0.4 by default.

        The clock runs from the end of the first step to the end of the last. The first step reads the prompt and gives
        several tokens at once, so the time is stretched as if it had given one.
        """
        request = _Request(list(prompt), n, temperature, seed, draft_max, p_min)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self.ended() from error
        return Completion(**self._answer())

    def _answer(self) -> dict[str, Any]:
        """The worker's next answer."""
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
                with contextlib.suppress(OSError):  # the worker has ended, and left input unread
                    pipe.close()
        super().close()


@dataclass(frozen=True)
class _Request:
    """A request of `Assisted` to its worker."""

    prompt: list[int]
    n: int
    temperature: float
    seed: int
    draft_max: int
    p_min: float


class _Stopwatch:
    """A streamer of transformers. It notes when each step ended, and with how many tokens. The prompt is the first."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.counts: list[int] = []

    def put(self, value: Any) -> None:
        self.ends.append(time.perf_counter())
        self.counts.append(value.numel())

    def end(self) -> None:
        pass


class _Worker:
    """Both models, in the process that `Assisted` starts."""

    def __init__(self, target: str, draft: str, threads: int) -> None:
        # Imported here, because measuring llama.cpp needs no torch.
        import torch
        import transformers

        self._torch, self._transformers = torch, transformers
        if threads:
            torch.set_num_threads(threads)
        self._target = self._load(target)
        self._draft = self._load(draft) if draft else None
        self._widths: list[int] = []
        self._target.register_forward_pre_hook(self._note, with_kwargs=True)

    def _load(self, model: str) -> Any:
        loader: Any = self._transformers.AutoModelForCausalLM
        loaded = loader.from_pretrained(model, dtype=self._torch.float32, use_safetensors=True).eval()
        # `generate` would end at these tokens otherwise.
        loaded.generation_config.eos_token_id = None
        return loaded

    def _note(self, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes how many rows the target is given in a step."""
        self._widths.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).shape[1])

    def complete(self, request: _Request) -> Completion:
        torch = self._torch
        self._transformers.set_seed(request.seed)
        options: dict[str, Any] = {"max_new_tokens": request.n, "do_sample": request.temperature > 0}
        if request.temperature > 0:
            # The temperature alone: the library's default has a top_k of 50.
            options |= {"temperature": request.temperature, "top_k": 0, "top_p": 1.0}
        if self._draft is None:
            options["prompt_lookup_num_tokens"] = request.draft_max
        else:
            config = self._draft.generation_config
            config.num_assistant_tokens = request.draft_max
            config.num_assistant_tokens_schedule = "constant"
            config.assistant_confidence_threshold = request.p_min
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
        """Runs once, because a first run sets up much."""
        self.complete(_Request([1, 2, 3], 12, 0.0, 0, 2, 0.0))


def _serve() -> None:
    """Serves one request per line, with one answer per line, until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft", required=True, help="empty: prompt lookup")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    # Libraries may print to standard output. That goes to standard error.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requested: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            requested.put(line)
        os._exit(0)  # the program that started this is gone; an answer under way does not matter

    threading.Thread(target=listen, daemon=True).start()

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")

    try:
        worker = _Worker(args.target, args.draft, args.threads)
        worker.warm()
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        os._exit(1)  # an ordinary exit would wait for the other thread
    say({"ready": True})
    while True:
        request = _Request(**json.loads(requested.get()))
        try:
            say(asdict(worker.complete(request)))
        except Exception as error:  # the next request may work
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    _serve()
