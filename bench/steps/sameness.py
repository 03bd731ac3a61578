"""How many tokens of an answer change with what happens around it: backs, the cache, other answers.

    python -m bench ties --model smollm2 --runtime llamacpp --weights Q8_0 --mode on

Each prompt is answered once alone, without backs, in a slot that held nothing. Then it is answered with a back, with
two, and with one that is killed and another that joins in the middle. Then it is asked again as it is, beside seven
others, and after another prompt in the same slot. That is the lead's own decode loop. Guesses are made up from the
first answer, some right and some wrong. An answer counts up to the first token that differs. So each change is counted
once.

The result of every cell is kept in a file. A cell that is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.harness import real
from bench.harness.models import RUNTIMES, shipped
from bench.steps.ties import prompt_of
from duo.engines import Engine, EngineOptions, load, promise
from duo.engines.conditions import conditions
from duo.errors import DuoError
from duo.guesses import Expansion
from duo.models.corpus import questions
from duo.prefix import Prefix, common_length
from duo.program import values
from duo.sampling.params import SamplingParams
from duo.trace import Trace
from duo.wire.ledger import Ledger
from lead.decode.loop import Decoder
from lead.decode.request import Request
from lead.decode.session import Session, Step
from lead.plan.limits import Limits
from lead.plan.verify_all import VerifyAll

SLOTS, ROWS, TOKENS = 8, 64, 96
"""Slots, room for rows, and tokens of an answer at most."""
RIGHT = 0.75
"""Share of guesses that are right."""
WAYS = ("a back", "two backs", "killed and joined", "asked twice", "eight at once", "another prompt before")


class Cell(NamedTuple):
    """A model in one runtime, with weights of one type, in one mode."""

    model: str
    runtime: str
    weights: str
    mode: promise.Mode
    temperature: float

    @property
    def key(self) -> str:
        return " ".join(map(str, self))


class Count(NamedTuple):
    """`changed`: answers that parted, each at one token of so many. `says`: the engine's own line."""

    tokens: int
    changed: dict[str, int]
    seconds: float
    says: str


class Loop:
    """A lead's decode loop in this thread, with backs that know the answer and now and then say something else."""

    def __init__(self, engine: Engine, seed: int, tokens: int = TOKENS) -> None:
        self._tokens = tokens
        self._size = engine.vocabulary.size
        self._random = np.random.default_rng(seed)
        limits = Limits(draft_max=8, rows=min(ROWS, engine.room), rollback=engine.rollback)
        self._decoder = Decoder(engine, Ledger(), VerifyAll(limits), Trace())

    def ask(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams],
        known: Sequence[Sequence[int]] | None = None, backs: Sequence[int] = (),
    ) -> list[list[int]]:  # fmt: skip
        """The answers to prompts that are asked at once. `backs`: how many guess, in each quarter of the answer."""
        answers: list[list[int]] = [[] for _ in prompts]
        requests: list[Request] = []
        errors: list[DuoError | None] = []
        for prompt, how, answer in zip(prompts, params, answers, strict=True):

            def take(step: Step, answer: list[int] = answer) -> None:
                answer.extend(done.token for done in step.committed)

            requests.append(Request(prompt, how, self._tokens, True, take, errors.append))
            self._decoder.submit(requests[-1])
        while len(errors) < len(requests):
            for request, answer, text in zip(requests, answers, known or answers, strict=True):
                quarter = 4 * len(answer) // self._tokens
                if known and backs and request.status in ("reading", "answering"):
                    for back in range(backs[min(quarter, len(backs) - 1)]):
                        self._guess(request.session, text[len(answer) :], f"back {back}")
            self._decoder.turn()
        for error in errors:
            if error is not None:
                raise error
        return answers

    def _guess(self, session: Session, right: Sequence[int], back: str) -> None:
        """Some of what comes next, now and then wrong, with other tokens beside it."""
        at = Prefix(session.prefix.tokens)
        for token in right[: int(self._random.integers(0, 8))]:
            others = [int(t) for t in self._random.integers(0, self._size, int(self._random.integers(0, 3)))]
            tokens = list(dict.fromkeys([token, *others] if self._random.random() < RIGHT else [*others, token]))
            chances = [0.8 / 2**rank for rank in range(len(tokens))]
            session.tree.merge(Expansion(len(at), at.hash, tokens, chances), back)
            at.extend([token])


def ways(loop: Loop, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> dict[str, list[list[int]]]:
    """The answers to some prompts: first alone, then in each of `WAYS`."""

    def each(backs: Sequence[int], known: Sequence[Sequence[int]], before: bool = False) -> list[list[int]]:
        found = []
        for index, (prompt, how, text) in enumerate(zip(prompts, params, known, strict=True)):
            if before:  # its slot then holds the beginning of this prompt, and of an answer to another
                loop.ask([[*prompt[: len(prompt) * 2 // 3], *prompts[index - 1][-9:]]], [how])
            found += loop.ask([prompt], [how], [text], backs)
        return found

    alone = [loop.ask([prompt], [how])[0] for prompt, how in zip(prompts, params, strict=True)]
    return {
        "alone": alone,
        "asked twice": each((0,), alone),
        "a back": each((1,), alone),
        "two backs": each((2,), alone),
        "killed and joined": each((1, 0, 2, 1), alone),
        "another prompt before": each((0, 1), alone, before=True),
        "eight at once": loop.ask(prompts, params, alone, (1, 0, 1, 2)),
    }


def count(engine: Engine, temperature: float, tokens: int, says: str = "") -> Count:
    """Answer until so many tokens have been compared."""
    asked = questions(1000, seed=0)
    changed = dict.fromkeys(WAYS, 0)
    done = number = 0
    started = time.perf_counter()
    while done < tokens:
        texts = [asked[(number + i) % len(asked)].text for i in range(SLOTS)]
        params = [SamplingParams(temperature=temperature, seed=number + i) for i in range(SLOTS)]
        for slot in range(engine.slots):
            engine.truncate(slot, 0)
        found = ways(Loop(engine, number), [prompt_of(engine, text) for text in texts], params)
        for way in WAYS:
            for alone, again in zip(found["alone"], found[way], strict=True):
                agreed = common_length(alone, again)
                parted = agreed < len(alone)
                changed[way] += parted
                done += agreed + parted
        number += SLOTS
    return Count(done, changed, time.perf_counter() - started, says)


def cells(args: argparse.Namespace) -> list[Cell]:
    """All that the flags leave, in the order of the table."""
    found = []
    for model in args.model:
        for runtime in args.runtime:
            types = real.WEIGHTS if runtime == "llamacpp" else ("float32", "bfloat16")
            if model == "shipped":
                types = ("BF16",) if runtime == "llamacpp" else ("float32",)
            found += [
                Cell(model, runtime, weights, mode, temperature)
                for weights in types
                if not args.weights or weights in args.weights
                for mode in args.mode
                for temperature in args.temperature
            ]
    return found


def loaded(cell: Cell, threads: int, flash: str) -> tuple[Engine, str]:
    """The engine that a lead would have, and the line that it would say."""
    runtime = next(runtime for runtime in RUNTIMES if runtime == cell.runtime)
    if cell.model == "shipped":
        path = shipped("target", runtime)
    else:
        name = next(name for name in real.NAMES if name == cell.model)
        weights = next((weights for weights in real.WEIGHTS if weights == cell.weights), None)
        path = str(real.model(name, runtime, weights if runtime == "llamacpp" else None))
    options = EngineOptions(
        threads=threads, context=1024, slots=SLOTS, tree_rows=ROWS,
        dtype=cell.weights if runtime == "transformers" else "auto",
        flash_attention="on" if flash == "on" else "off" if flash == "off" else "auto",
    )  # fmt: skip

    def engine_for(chains: bool, trial: bool) -> Engine:
        return load(path, runtime, replace(options, chains=chains, trial=trial))

    asked = promise.Asked(cell.mode, 16, 32, SLOTS, context=options.context)
    same = promise.serve(engine_for, asked, conditions(path, runtime, options))
    return same.engine, same.line


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--tokens", type=values.positive, default=20_000, help="tokens compared in each cell")
    p.add_argument("--model", nargs="+", choices=("shipped", *real.NAMES), default=list(real.NAMES))
    p.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    p.add_argument("--weights", nargs="+", metavar="TYPE", help="Q4_1, Q4_K_M, Q8_0, BF16, float32, bfloat16")
    p.add_argument("--mode", nargs="+", choices=("on", "off", "auto"), default=["on", "off"], help="of --exact")
    p.add_argument("--temperature", nargs="+", type=float, default=[0.8])
    p.add_argument("-t", "--threads", type=values.positive, default=1)
    p.add_argument("-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto", help="of llama.cpp")
    p.add_argument("--minutes", type=float, default=float("inf"), help="begin no further cell after so many")
    p.add_argument("--results", type=Path, default=Path("ties.jsonl"), help="what is known already, and is added to")


def main(args: argparse.Namespace) -> int:
    known: dict[str, Count] = {}
    if args.results.exists():
        for line in args.results.read_text().splitlines():
            entry = json.loads(line)
            known[entry["cell"]] = Count(*entry["count"])
    until = time.perf_counter() + 60 * args.minutes
    wanted = cells(args)
    for cell in wanted:
        key = f"{cell.key} -t {args.threads} -fa {args.flash_attn} {args.tokens}"
        if key not in known and time.perf_counter() < until:
            engine, line = loaded(cell, args.threads, args.flash_attn)
            known[key] = count(engine, cell.temperature, args.tokens, line)
            engine.close()
            with args.results.open("a") as file:
                file.write(json.dumps({"cell": key, "count": known[key]}) + "\n")
            print(
                f"{key}: {sum(known[key].changed.values())} of {known[key].tokens}, {known[key].seconds:.0f} s; {line}"
            )
    table = Table(title="Tokens that changed")
    for column in (*Cell._fields, "tokens", "changed", *WAYS):
        table.add_column(column, justify="right" if column in ("temperature", "tokens", "changed", *WAYS) else "left")
    for cell in wanted:
        found = known.get(f"{cell.key} -t {args.threads} -fa {args.flash_attn} {args.tokens}")
        if found is not None:
            each = [str(found.changed[way]) for way in WAYS]
            table.add_row(*map(str, cell), str(found.tokens), str(sum(found.changed.values())), *each)
    Console(width=180).print(table)
    return 0
