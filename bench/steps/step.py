"""`python -m bench step`: what the lead adds to a decode step without a back, over the engine in a bare loop.

A real lead streams to a real client over HTTP. The bare loop is `forward`, argmax, `commit` and nothing else. Both
decode the same tokens with one thread, in turns, so a busy machine disturbs both alike. The command also tells how long
it takes to pick a token from a large vocabulary.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from statistics import quantiles

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.harness.decoding import bare_loop, chat_prompt
from bench.harness.models import RUNTIMES, Runtime, load_target, shipped
from bench.harness.processes import LeadProcess
from duo.program.values import positive
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler

LARGE_VOCABULARY = 128_000
QUESTION = "What does shutil.copytree do?"


@dataclass(frozen=True)
class Result:
    """Milliseconds per token."""

    runtime: Runtime
    bare: float
    lead: float

    @property
    def added(self) -> float:
        return self.lead - self.bare


def measure(runtime: Runtime, tokens: int, rounds: int) -> Result:
    model = shipped("target", runtime)
    engine = load_target(model, runtime)
    prompt = chat_prompt(engine, QUESTION)
    with LeadProcess("-m", model, "--threads", "1", "--print-mode", "none") as lead:
        lead.ready()
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(rounds + 1):
            reply = lead.ask(QUESTION, temperature=0, max_tokens=tokens, ignore_eos=True)
            engine.truncate(0, 0)
            times = bare_loop(engine, prompt, tokens)
            if number:  # the first round sets things up
                ours.append(reply.timings["predicted_ms"] / reply.timings["predicted_n"])
                theirs.append((times[-1] - times[0]) * 1000 / tokens)
    engine.close()
    return Result(runtime, _quartile(theirs), _quartile(ours))


def pick(temperature: float, size: int = LARGE_VOCABULARY, times: int = 200) -> float:
    """Milliseconds to pick one of `size` tokens, with no token filtered out."""
    logits = (np.random.default_rng(1).normal(size=size) * 3).astype(np.float32)
    sampler, took = Sampler(SamplingParams(temperature=temperature, seed=1), []), list[float]()
    for _ in range(times):
        started = time.perf_counter()
        sampler.pick(logits, [])
        took.append((time.perf_counter() - started) * 1000)
    return _quartile(took)


def _quartile(times: list[float]) -> float:
    """The lower quartile, because other work of the machine can only make a round slower."""
    return quantiles(times, n=4)[0]


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--tokens", type=positive, default=100, help="tokens per round")
    p.add_argument("--rounds", type=positive, default=24, help="rounds to measure")


def main(args: argparse.Namespace) -> int:
    tokens, rounds = args.tokens, args.rounds
    table = Table(title=f"One decode step without a back, lower quartile of {rounds} rounds of {tokens} tokens, ms")
    for column in ("engine", "bare loop", "lead", "added", "added, %"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for runtime in RUNTIMES:
        r = measure(runtime, tokens, rounds)
        table.add_row(r.runtime, f"{r.bare:.3f}", f"{r.lead:.3f}", f"{r.added:.3f}", f"{100 * r.added / r.bare:.1f}")
    Console().print(table)
    picks = ", ".join(f"{pick(temperature):.3f} ms at temperature {temperature:g}" for temperature in (0.0, 0.8))
    Console().print(f"A pick from {LARGE_VOCABULARY} tokens: {picks}")
    return 0
