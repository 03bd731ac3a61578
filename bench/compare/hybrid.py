"""`python -m bench hybrid`: what chains cost and gain on a model with a recurrent state, in llama.cpp.

The model has the shape of Qwen3.5: three gated delta nets to one layer of attention, about 0.3B parameters, and random
weights. It is its own draft, so every guess is right, and the schedule alone is measured.

1. In one process: a pass over 1 + k rows, without and with the commit of k accepted guesses. Then the same pass in an
   engine that keeps no snapshots of its state.
2. A lead and a back on a core each, and llama-server with `--spec-type draft-simple` on both cores.
3. A conversation of eight turns: how many tokens of its prompt each turn reads.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import llama_cpp
import requests
from rich.console import Console
from rich.table import Table

from bench.compare.llama_server import LlamaServer
from bench.compare.peers import ANSWER_SECONDS
from bench.harness.decoding import text_prompt
from bench.harness.models import cache
from bench.harness.processes import BackProcess, LeadProcess, halves
from bench.kinds import KINDS, vocabulary
from duo.engines import ROOT, Engine, EngineOptions, Row, load
from duo.engines.llamacpp import native
from duo.errors import ModelError
from duo.program.values import positive

SIZES: Mapping[str, int] = {
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 8192,
}
LAYERS = (["linear_attention"] * 3 + ["full_attention"]) * 4
CONTEXT, PROMPT_TOKENS = 2048, 100
DRAFT_LENGTHS = (2, 4, 8)
"""Draft lengths of llama-server. The lead is compared with the fastest one."""


def model() -> Path:
    """Path of the model in bf16. It is made once and cached."""
    from bench.kinds.checkpoint import write
    from bench.kinds.gguf_file import convert

    folder = cache()
    out = folder / "qwen35-0.3B-bf16.gguf"
    if out.exists():
        return out
    tiny = KINDS["qwen35"]
    kind = replace(tiny, sizes={**tiny.sizes, **SIZES, "layer_types": LAYERS})
    checkpoint, full, part = (folder / f"{out.stem}-{os.getpid()}{end}" for end in ("", ".f32", ".part"))
    weights = write(kind, checkpoint, seed=0)
    vocabulary.write(checkpoint)
    convert(kind, checkpoint, weights, full)
    native.start()  # silences llama.cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_BF16
    if llama_cpp.llama_model_quantize(os.fsencode(full), os.fsencode(part), params):
        raise ModelError(f"llama.cpp cannot write {part.name}: is there room on the disk?")
    part.replace(out)
    full.unlink()
    for file in checkpoint.iterdir():
        file.unlink()
    checkpoint.rmdir()
    return out


class Accepted(NamedTuple):
    """Milliseconds of a pass over 1 + k rows.

    forward_only: in an engine that cannot go back. cost: in one that can. committed: in that one, with the commit.
    """

    forward_only: float
    cost: float
    committed: float


def accepting(path: str, longest: int, rounds: int) -> dict[int, Accepted]:
    """The medians by k, measured in turns."""
    plain = load(path, "llamacpp", EngineOptions(threads=1, context=CONTEXT, draft_max=0))
    able = load(path, "llamacpp", EngineOptions(threads=1, context=CONTEXT, draft_max=longest))
    prompt = text_prompt(plain, PROMPT_TOKENS)
    took: dict[int, list[Accepted]] = {k: [] for k in range(min(longest, able.rollback.depth) + 1)}
    for number in range(rounds + 1):
        for k, rows in took.items():
            without, _ = _accept(plain, prompt, k)
            cost, committed = _accept(able, prompt, k)
            if number:
                rows.append(Accepted(without * 1000, cost * 1000, committed * 1000))
    plain.close()
    able.close()
    return {k: Accepted(*map(median, zip(*rows, strict=True))) for k, rows in took.items()}


def _accept(engine: Engine, prompt: Sequence[int], k: int) -> tuple[float, float]:
    """Seconds of a pass that accepts k guesses: without its commit, and with it."""
    engine.truncate(0, 0)
    engine.extend(0, prompt)
    # The first step after a prompt also reads its end, so it is not measured.
    engine.forward([Row(0, 0, prompt[0])])
    engine.commit(0, [0])
    rows = [Row(at, 0, prompt[at], at - 1 if at else ROOT) for at in range(1 + k)]
    started = time.perf_counter()
    engine.forward(rows)
    forwarded = time.perf_counter()
    engine.commit(0, range(1 + k))
    return forwarded - started, time.perf_counter() - started


def against_server(path: str, tokens: int, rounds: int) -> tuple[list[float], dict[int, list[float]], list[float]]:
    """Milliseconds per token of the lead with a back, and of llama-server by draft length.

    The third result is the lead's tokens per pass. All have a value for each round.
    """
    near, far = halves()
    ours: list[float] = []
    per_pass: list[float] = []
    theirs: dict[int, list[float]] = {length: [] for length in DRAFT_LENGTHS}
    with contextlib.ExitStack() as stack:
        lead = LeadProcess("-m", path, "-t", "1", "-c", str(CONTEXT), "-np", "1", "--print-mode", "none", cpus=near)
        stack.enter_context(lead).ready()
        back = BackProcess(lead.back_port, "-m", path, "-t", "1", "-c", str(CONTEXT), "-np", "1", cpus=far)
        stack.enter_context(back).joined()
        servers = {
            length: stack.enter_context(
                LlamaServer(path, path, cpus=[*near, *far], draft_max=length, context=CONTEXT)
            ).ready()
            for length in DRAFT_LENGTHS
        }
        for number, prompt in enumerate(_prompts(path, rounds + 1)):
            body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            answer = requests.post(f"{lead.url}/v1/completions", json=body, timeout=ANSWER_SECONDS).json()
            seconds = {length: server.complete(prompt, tokens).seconds for length, server in servers.items()}
            if number:  # the first round sets things up
                ours.append(answer["timings"]["predicted_ms"] / tokens)
                per_pass.append(tokens / (tokens - answer["timings"]["draft_n_accepted"]))
                for length, took in seconds.items():
                    theirs[length].append(took * 1000 / (tokens - 1))
    return ours, theirs, per_pass


def _prompts(path: str, count: int) -> list[list[int]]:
    engine = load(path, "llamacpp", EngineOptions(threads=1, context=CONTEXT))
    prompts = [text_prompt(engine, PROMPT_TOKENS + at) for at in range(count)]
    engine.close()
    return prompts


def conversation(path: str, turns: int) -> list[tuple[int, int, int]]:
    """For each turn: the tokens of its prompt, those that are new in it, and those that were read."""
    near, _ = halves()
    found: list[tuple[int, int, int]] = []
    messages: list[dict[str, str]] = []
    with LeadProcess("-m", path, "-t", "1", "-c", str(CONTEXT), "--print-mode", "none", cpus=near) as lead:
        lead.ready()
        before = 0
        for turn in range(turns):
            messages.append({"role": "user", "content": f"{turn}: what does a back do meanwhile?"})
            body = {"messages": messages, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
            answer = requests.post(f"{lead.url}/v1/chat/completions", json=body, timeout=ANSWER_SECONDS).json()
            messages.append(answer["choices"][0]["message"])
            length = answer["usage"]["prompt_tokens"]
            found.append((length, length - before, answer["timings"]["prompt_n"]))
            before = length
    return found


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--most", type=positive, default=8, metavar="N", help="tokens of the longest chain")
    p.add_argument("--tokens", type=positive, default=64, help="tokens per round")
    p.add_argument("--rounds", type=positive, default=8, help="rounds to measure")
    p.add_argument("--turns", type=positive, default=8, help="turns of the conversation")


def main(args: argparse.Namespace) -> int:
    console, path = Console(), str(model())
    columns = ("k", "without snapshots", "cost(1 + k)", "with the commit", "over cost(1 + k)")
    table = _table("A pass that accepts k guesses, ms (medians)", *columns)
    for k, it in accepting(path, args.most, args.rounds).items():
        table.add_row(str(k), *(f"{ms:.1f}" for ms in it), f"{it.committed / it.cost:.3f}")
    console.print(table)
    ours, theirs, per_pass = against_server(path, args.tokens, args.rounds)
    best = min(theirs, key=lambda length: median(theirs[length]))
    low, middle, high = quantiles([b / a for a, b in zip(ours, theirs[best], strict=True)], n=4, method="inclusive")
    console.print(
        f"ms per token: lead with a back {median(ours):.1f} ({median(per_pass):.1f} tokens per pass), llama-server "
        + ", ".join(f"{median(times):.1f} with {length}" for length, times in theirs.items())
        + f". The lead's speed over llama-server's best: {middle:.3f} ({low:.3f} to {high:.3f})"
    )
    table = _table("A conversation", "turn", "prompt", "new", "read")
    for turn, row in enumerate(conversation(path, args.turns), 1):
        table.add_row(str(turn), *map(str, row))
    console.print(table)
    return 0


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table
