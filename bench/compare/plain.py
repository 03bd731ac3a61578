"""`python -m bench plain MODEL`: decoding without a back, beside llama-server without speculation.

A lead, llama-server and the engine in a bare loop decode the same tokens of one GGUF file in turns, with one thread on
one core. The bare loop shows which part of a difference is the engine's. Answers are streamed, and the client measures
the time from the first token to the last. A program's speed varies by a few percent from one start to the next, so all
are started several times. The result is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import requests
from rich.console import Console
from rich.table import Table

from bench.compare.llama_server import LlamaServer
from bench.compare.peers import ANSWER_SECONDS
from bench.harness.decoding import bare_loop, text_prompt
from bench.harness.models import load_target
from bench.harness.padding import model as padded_model
from bench.harness.processes import LeadProcess, halves, pinned
from duo.program.values import count, positive


@dataclass(frozen=True)
class Round:
    """Milliseconds per token of all three, in one round."""

    bare: float
    lead: float
    server: float


def streamed(url: str, prompt: Sequence[int], tokens: int, **options: object) -> float:
    """Milliseconds per token after the first, as a client sees them that reads the stream."""
    body = {"prompt": list(prompt), "temperature": 0, "ignore_eos": True, "stream": True, **options}
    first = last = 0.0
    with requests.post(url, json=body, stream=True, timeout=ANSWER_SECONDS) as response:
        response.raise_for_status()
        for line in response.iter_lines(chunk_size=1):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                last = time.perf_counter()
                first = first or last
    return (last - first) * 1000 / (tokens - 1)


def stretched(path: Path, length: int) -> Path:
    """A copy of a padded model beside it, whose file says that it has so much context: the time of a pass is alike."""
    from gguf import GGUFReader

    copy = path.with_name(f"{path.stem}-{length}.gguf")
    if not copy.exists():
        draft = copy.with_suffix(".part")
        shutil.copyfile(path, draft)
        GGUFReader(draft, "r+").fields["llama.context_length"].parts[-1][0] = length
        draft.replace(copy)
    return copy


def measure(
    model: str, contexts: Sequence[int], tokens: int, rounds: int, flags: Sequence[str]
) -> dict[int, list[Round]]:
    """Starts all programs and measures. Returns the rounds by tokens of context."""
    capacity = max(contexts) + tokens + 8
    cpus, _ = halves()
    found: dict[int, list[Round]] = {context: [] for context in contexts}
    with pinned(cpus), ExitStack() as stack:
        flags = ("-m", model, "-t", "1", "-c", str(capacity), "--print-mode", "none", "--cache-ram", "0", *flags)
        lead = stack.enter_context(LeadProcess(*flags, cpus=cpus)).ready()  # alone, because it measures its speed now
        server = stack.enter_context(LlamaServer(model, cpus=cpus, context=capacity)).ready()
        engine = load_target(model, "llamacpp", context=capacity)
        for context in contexts:
            prompt = text_prompt(engine, context)
            for number in range(rounds + 1):
                times = bare_loop(engine, prompt, tokens)
                alone = (times[-1] - times[1]) * 1000 / (tokens - 1)
                ours = streamed(f"{lead.url}/v1/completions", prompt, tokens, max_tokens=tokens)
                theirs = streamed(
                    f"{server.url}/completion", prompt, tokens,
                    n_predict=tokens, samplers=["temperature"], cache_prompt=True,
                )  # fmt: skip
                if number:  # the first round sets things up
                    found[context].append(Round(alone, ours, theirs))
        engine.close()
    return found


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "model", metavar="MODEL", help="a GGUF file, or a size such as 0.8B-q8_0 to pad the shipped target to"
    )
    p.add_argument(
        "--contexts", type=count, nargs="+", default=[100, 1000, 3000], metavar="N", help="tokens of context"
    )
    p.add_argument("--tokens", type=positive, default=64, help="tokens per round")
    p.add_argument("--starts", type=positive, default=3, help="how often all programs are started")
    p.add_argument("--rounds", type=positive, default=6, help="rounds of each start")
    p.add_argument("--flags", default="", help="more flags of the lead, in one string")


def main(args: argparse.Namespace) -> int:
    model = args.model
    if not model.endswith(".gguf"):
        model = str(stretched(Path(padded_model("target", model, "llamacpp")), 4096))
    found: dict[int, list[Round]] = {context: [] for context in args.contexts}
    for _ in range(args.starts):
        for context, rounds in measure(model, args.contexts, args.tokens, args.rounds, args.flags.split()).items():
            found[context] += rounds
    title = f"Decoding without a back, {args.starts} x {args.rounds} rounds of {args.tokens} tokens"
    table = Table(title=f"{title}, ms per token (medians)")
    for column in ("context", "bare loop", "lead", "llama-server", "lead's speed over llama-server's (quartiles)"):
        table.add_column(column, justify="right")
    for context, rounds in found.items():
        low, middle, high = quantiles([it.server / it.lead for it in rounds], n=4, method="inclusive")
        times = [median(it.bare for it in rounds), median(it.lead for it in rounds), median(it.server for it in rounds)]
        table.add_row(str(context), *(f"{ms:.3f}" for ms in times), f"{middle:.3f} ({low:.3f} to {high:.3f})")
    Console().print(table)
    return 0
