"""`python -m bench ties`: how many tokens of an answer change with backs, the cache and other answers.

    python -m bench ties --model smollm2 --runtime llamacpp --weights Q8_0 --mode on

Each prompt is first answered alone, without backs, in an empty slot. Then it is answered in each of `SITUATIONS`. The
loop is the lead's own. Guesses are made up from the first answer, some right and some wrong. An answer counts up to its
first token that differs, so each change counts once.

The result of every cell is kept in a file, and such a cell does not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.harness import real
from bench.harness.decoding import Answered, Asked, LeadLoop, chat_prompt
from bench.harness.models import RUNTIMES, Runtime, shipped
from duo.engines import Engine, EngineOptions, FlashAttention, load, promise
from duo.engines.conditions import conditions
from duo.guesses import Expansion
from duo.models.corpus import questions
from duo.prefix import Prefix, common_length
from duo.program import values
from duo.sampling.params import SamplingParams
from lead.decode.session import Session
from lead.plan.schedule import Limits
from lead.plan.verify_all import VerifyAll

SLOTS, ROWS, TOKENS = 8, 64, 96
"""Slots, rows of a forward pass, and tokens of an answer."""
RIGHT_SHARE = 0.75
"""The share of guesses that are right."""
SITUATIONS = ("a back", "two backs", "killed and joined", "asked twice", "eight at once", "another prompt before")


class Cell(NamedTuple):
    """A model in one runtime, with weights of one type, in one mode."""

    model: Literal["shipped"] | real.Name
    runtime: Runtime
    weights: str
    mode: promise.Mode
    temperature: float

    @property
    def key(self) -> str:
        return " ".join(map(str, self))


class Count(NamedTuple):
    """tokens: compared in all. changed: by situation, answers that differ. says: the lead's line about exactness."""

    tokens: int
    changed: dict[str, int]
    seconds: float
    says: str


class GuessedAnswers:
    """Answers of a lead's decode loop with made-up backs: they know the answer, and are sometimes wrong."""

    def __init__(self, engine: Engine, seed: int, tokens: int = TOKENS) -> None:
        self._tokens = tokens
        self._size = engine.vocabulary.size
        self._random = np.random.default_rng(seed)
        limits = Limits(draft_max=8, rows=min(ROWS, engine.room), rollback=engine.rollback)
        self._loop = LeadLoop(engine, VerifyAll(limits))

    def ask(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams],
        known: Sequence[Sequence[int]] = (), backs: Sequence[int] = (),
    ) -> list[list[int]]:  # fmt: skip
        """Answers prompts that come at once.

        known: the answers that backs guess from. backs: how many backs there are, for example in each quarter.
        """

        def guess(answers: Sequence[Answered]) -> None:
            for answer, text in zip(answers, known, strict=True):
                session, done = answer.request.session, len(answer.tokens)
                if session is not None and answer.request.state != "ended":
                    quarter = 4 * done // self._tokens
                    for back in range(backs[min(quarter, len(backs) - 1)]):
                        self._guess(session, text[done:], f"back {back}")

        asked = [Asked(prompt, how, self._tokens) for prompt, how in zip(prompts, params, strict=True)]
        answers = self._loop.ask(asked, guess) if backs else self._loop.ask(asked)
        return [answer.tokens for answer in answers]

    def _guess(self, session: Session, right: Sequence[int], back: str) -> None:
        """Merges guesses of what comes next, sometimes wrong, with other tokens beside them."""
        at = Prefix(session.prefix.tokens)
        for token in right[: int(self._random.integers(0, 8))]:
            others = [int(t) for t in self._random.integers(0, self._size, int(self._random.integers(0, 3)))]
            tokens = list(dict.fromkeys([token, *others] if self._random.random() < RIGHT_SHARE else [*others, token]))
            chances = [0.8 / 2**rank for rank in range(len(tokens))]
            session.tree.merge(Expansion(len(at), at.hash, tokens, chances), back)
            at.extend([token])


def in_all_situations(
    loop: GuessedAnswers, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
) -> dict[str, list[list[int]]]:
    """The answers to the prompts, by situation: alone, and in each of `SITUATIONS`."""

    def each(backs: Sequence[int], known: Sequence[Sequence[int]], before: bool = False) -> list[list[int]]:
        found = []
        for index, (prompt, how, text) in enumerate(zip(prompts, params, known, strict=True)):
            if before:  # the slot then holds the beginning of this prompt, and another answer
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
    """Answers prompts until `tokens` tokens have been compared."""
    asked = questions(1000, seed=0)
    changed = dict.fromkeys(SITUATIONS, 0)
    done = number = 0
    started = time.perf_counter()
    while done < tokens:
        texts = [asked[(number + i) % len(asked)].text for i in range(SLOTS)]
        params = [SamplingParams(temperature=temperature, seed=number + i) for i in range(SLOTS)]
        for slot in range(engine.slots):
            engine.truncate(slot, 0)
        found = in_all_situations(GuessedAnswers(engine, number), [chat_prompt(engine, text) for text in texts], params)
        for way in SITUATIONS:
            for alone, again in zip(found["alone"], found[way], strict=True):
                agreed = common_length(alone, again)
                parted = agreed < len(alone)
                changed[way] += parted
                done += agreed + parted
        number += SLOTS
    return Count(done, changed, time.perf_counter() - started, says)


def cells(args: argparse.Namespace) -> list[Cell]:
    """The cells that the flags select, in the order of the table."""
    found = []
    for model in args.model:
        for runtime in args.runtime:
            types = real.TYPES[runtime]
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


def loaded(cell: Cell, threads: int, flash: FlashAttention) -> tuple[Engine, str]:
    """The engine that a lead would have, and its line about exactness."""
    runtime = cell.runtime
    path = shipped("target", runtime) if cell.model == "shipped" else str(real.measured(cell.model, *cell[1:3]))
    options = EngineOptions(
        threads=threads, context=1024, slots=SLOTS, tree_rows=ROWS,
        dtype=cell.weights if runtime == "transformers" else "auto",
        flash_attention=flash,
    )  # fmt: skip

    def engine_for(chains: bool, trial: bool) -> Engine:
        return load(path, runtime, replace(options, chains=chains, trial=trial))

    asked = promise.Asked(cell.mode, 16, 32, SLOTS, context=options.context)
    same = promise.serve(engine_for, asked, conditions(path, runtime, options))
    return same.engine, same.line


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--tokens", type=values.positive, default=20_000, help="tokens to compare in each cell")
    p.add_argument("--model", nargs="+", choices=("shipped", *real.NAMES), default=list(real.NAMES))
    p.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    p.add_argument("--weights", nargs="+", metavar="TYPE", help="Q4_1, Q4_K_M, Q8_0, BF16, float32, bfloat16")
    p.add_argument("--mode", nargs="+", choices=("on", "off", "auto"), default=["on", "off"], help="values of --exact")
    p.add_argument("--temperature", nargs="+", type=float, default=[0.8])
    p.add_argument("-t", "--threads", type=values.positive, default=1)
    p.add_argument("-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto", help="in llama.cpp")
    p.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after this time")
    p.add_argument(
        "--results", type=Path, default=Path("ties.jsonl"), help="file of the results, which is read and added to"
    )


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
    for column in (*Cell._fields, "tokens", "changed", *SITUATIONS):
        table.add_column(
            column, justify="right" if column in ("temperature", "tokens", "changed", *SITUATIONS) else "left"
        )
    for cell in wanted:
        found = known.get(f"{cell.key} -t {args.threads} -fa {args.flash_attn} {args.tokens}")
        if found is not None:
            each = [str(found.changed[way]) for way in SITUATIONS]
            table.add_row(*map(str, cell), str(found.tokens), str(sum(found.changed.values())), *each)
    Console(width=180).print(table)
    return 0
