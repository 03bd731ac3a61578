"""`python -m bench exact`: what `--exact on` costs, without a back and with one.

Two leads serve the same model, one with `--exact on` and one with `--exact off`. They share a core, and answer the same
questions in turns. Then each gets a back on the other core, which drafts with the same model in Q4_1. The result is the
ratio of the two within a round: of the time per token, and of the time to read a new prompt.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import NamedTuple

import requests
from rich.console import Console
from rich.table import Table

from bench.compare.peers import ANSWER_SECONDS
from bench.harness import real
from bench.harness.models import RUNTIMES, Runtime
from bench.harness.processes import BackProcess, LeadProcess, halves
from duo.models.corpus import questions
from duo.program.values import positive

CONTEXT, PROMPT_TOKENS = 1024, 400
"""Tokens of a slot, and of a prompt whose reading is timed, roughly."""
BYTES_PER_TOKEN = 4
"""Of the prompts, roughly."""


class Cell(NamedTuple):
    """A model in one runtime, with weights of one type."""

    model: real.Name
    runtime: Runtime
    weights: str


class Times(NamedTuple):
    """Seconds of a lead in one round. token: per token of the answers. prompt: to read one prompt."""

    token: float
    prompt: float


class Ratios(NamedTuple):
    """Times with `on` over times with `off`, for each round."""

    tokens: list[float]
    prompts: list[float]


def round_of(lead: LeadProcess, number: int, asked: int, tokens: int) -> Times:
    """Asks a lead new questions, and has it read a new prompt."""
    took = 0.0
    for question in questions(1000, seed=number)[:asked]:
        body = {
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": tokens, "temperature": 0.8, "seed": number, "ignore_eos": True,
        }  # fmt: skip
        took += float(_post(lead, "chat/completions", body)["timings"]["predicted_ms"]) / 1000
    text = f"{number} " + " ".join(question.text for question in questions(200, seed=number + 1000))
    started = time.perf_counter()
    _post(lead, "completions", {"prompt": text[: PROMPT_TOKENS * BYTES_PER_TOKEN], "max_tokens": 1})
    return Times(took / (asked * tokens), time.perf_counter() - started)


def _post(lead: LeadProcess, path: str, body: Mapping[str, object]) -> Mapping[str, Mapping[str, float]]:
    response = requests.post(f"{lead.url}/v1/{path}", json=body, timeout=ANSWER_SECONDS)
    response.raise_for_status()
    found: Mapping[str, Mapping[str, float]] = response.json()
    return found


def measure(cell: Cell, rounds: int, asked: int, tokens: int) -> tuple[Ratios, Ratios]:
    """The ratios without a back, and with one."""
    near, far = halves()
    path, draft = real.measured(*cell), real.model(cell.model, "llamacpp", "Q4_1")
    flags = ["-m", str(path), "-t", "1", "-c", str(CONTEXT), "-np", "1", "--print-mode", "none"]
    flags += ["--cache-ram", "0"]  # the same prompts come again with a back
    if cell.runtime == "transformers":
        flags += ["--dtype", cell.weights]
    with contextlib.ExitStack() as stack:
        leads = [stack.enter_context(LeadProcess(*flags, "--exact", mode, cpus=near)).ready() for mode in ("off", "on")]
        alone = _ratios(leads, rounds, asked, tokens)
        for lead in leads:
            back = BackProcess(lead.back_port, "-m", str(draft), "-t", "1", "-c", str(CONTEXT), "-np", "1", cpus=far)
            stack.enter_context(back).joined()
        return alone, _ratios(leads, rounds, asked, tokens)


def _ratios(leads: Sequence[LeadProcess], rounds: int, asked: int, tokens: int) -> Ratios:
    found = Ratios([], [])
    for number in range(rounds + 1):
        # Who comes first changes: it finds the processor's caches full of the other.
        turns = [0, 1] if number % 2 else [1, 0]
        times = {turn: round_of(leads[turn], number, asked, tokens) for turn in turns}
        off, on = times[0], times[1]
        if number:  # the first round sets things up
            found.tokens.append(on.token / off.token)
            found.prompts.append(on.prompt / off.prompt)
    return found


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", nargs="+", choices=real.NAMES, default=list(real.NAMES))
    p.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    p.add_argument("--weights", nargs="+", metavar="TYPE", help="Q4_1, Q4_K_M, Q8_0, BF16, float32, bfloat16")
    p.add_argument("--rounds", type=positive, default=6, help="rounds to measure")
    p.add_argument("--questions", type=positive, default=3, help="questions in a round")
    p.add_argument("--tokens", type=positive, default=32, help="tokens of each answer")


def main(args: argparse.Namespace) -> int:
    table = Table(title=f"What --exact on costs, {args.rounds} rounds (medians and quartiles)")
    for column in ("model", "runtime", "weights", "without a back", "with a back", "prompts"):
        table.add_column(column)
    for model in args.model:
        for runtime in args.runtime:
            for weights in real.TYPES[runtime]:
                if args.weights and weights not in args.weights:
                    continue
                alone, helped = measure(Cell(model, runtime, weights), args.rounds, args.questions, args.tokens)
                row = [_share(alone.tokens), _share(helped.tokens), _share([*alone.prompts, *helped.prompts])]
                table.add_row(model, runtime, weights, *row)
                print(model, runtime, weights, *row, sep="; ", flush=True)
    Console(width=140).print(table)
    return 0


def _share(ratios: Sequence[float]) -> str:
    """Ratios as a change in percent: median and quartiles."""
    low, middle, high = (100 * (it - 1) for it in quantiles(ratios, n=4, method="inclusive"))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"
