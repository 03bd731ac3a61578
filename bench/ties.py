"""Near ties: where floating point may choose between two tokens, and how often it does.

A row's logits depend in their last bits on how many rows shared its forward pass and on where its keys and values lie.
Where the two best tokens are closer than that, the pick may differ between a run with guesses and one without. This
file walks an answer with the same engine in one fixed way and says how close the call was at every token, so that a
test can prove that a difference is such a tie, and it counts how often guesses change a pick:

    python -m bench ties
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.models import RUNTIMES, shipped
from duo.cli import positive
from duo.engines import Engine, EngineOptions, load
from duo.models.corpus import questions
from duo.prefix import Prefix, common_length
from duo.sampling import Sampler, SamplingParams
from duo.session import Session
from duo.tree import Expansion

TOLERANCE = {"transformers": 2e-3, "llamacpp": 0.15}
"""Largest gap between two scores that counts as a near tie: far above the noise of float32, and above that of bf16
weights in llama.cpp, which rounds activations to bf16 before every product."""


@dataclass(frozen=True)
class Walk:
    """An answer, token by token, with the gap between the best and the second best score at each."""

    tokens: Sequence[int]
    gaps: Sequence[float]


def prompt_of(engine: Engine, question: str) -> list[int]:
    return engine.vocabulary.chat([{"role": "user", "content": question}])


def walk(
    engine: Engine,
    prompt: Sequence[int],
    params: SamplingParams,
    count: int,
    ignore_eos: bool = True,
    exact: bool = False,
) -> Walk:
    """Generate without guesses, as a lead does (`exact`: one that was started with --exact)."""
    eos = () if ignore_eos else engine.vocabulary.eos
    session = Session(0, len(prompt), params, Prefix(prompt), eos, len(prompt) + count)
    sampler = Sampler(params, prompt)
    engine.truncate(0, 0)
    engine.extend(0, list(prompt[:-1]))
    gaps: list[float] = []
    while session.finish_reason is None:
        logits = engine.forward(session.rows([], at_least=2 if exact else 1)).copy()
        scores = sampler.scores(logits[0], session.completion)[1]
        best = np.partition(scores, len(scores) - 2)[-2:] if len(scores) > 1 else np.array([-np.inf, scores[0]])
        gaps.append(float(best[1] - best[0]))
        engine.keep(0, session.verify([], logits).path)
    return Walk(session.completion, gaps)


def first_difference(engine: Engine, reference: Walk, text: str) -> int | None:
    """Index of the first token of the reference whose text is not that of `text`; None if `text` agrees to its end."""
    decode = engine.vocabulary.decode
    if decode(reference.tokens) == text:
        return None
    return next(
        (
            i
            for i in range(len(reference.tokens))
            if not text.startswith(decode(reference.tokens[: i + 1]).rstrip("\ufffd"))
        ),
        len(reference.tokens) - 1,
    )


def verify_with_guesses(
    engine: Engine, prompt: Sequence[int], params: SamplingParams, reference: Walk, seed: int, exact: bool = False
) -> int:
    """Go along the reference in steps of random draft trees; return at how many tokens the picks differ.

    Each step guesses the next tokens, some of them wrongly, and wrong siblings: shapes that backs send. After a
    difference the walk goes on along the reference, so that every token is judged by itself.
    """
    rng = np.random.default_rng(seed)
    tokens = list(reference.tokens)
    engine.truncate(0, 0)
    engine.extend(0, list(prompt[:-1]))
    different = done = 0
    while done < len(tokens):
        prefix = Prefix([*prompt, *tokens[:done]])
        session = Session(0, len(prefix), params, prefix, (), len(prefix) + 65)
        session.prompt_length = len(prompt)
        session.completion.extend(tokens[:done])
        at = Prefix(prefix.tokens)
        for true in tokens[done : done + int(rng.integers(0, 8))]:
            others = [int(t) for t in rng.integers(0, engine.vocabulary.size, int(rng.integers(0, 3))) if t != true]
            guesses = list(dict.fromkeys([true, *others]))
            rng.shuffle(guesses)
            session.tree.merge(Expansion(len(at), at.hash, guesses, [0.8] * len(guesses)), "bench")
            at.extend([true])
        nodes = [node for node, _ in (session.tree.chain(8) if exact else session.tree.best(8))]
        step = session.verify(nodes, engine.forward(session.rows(nodes, at_least=2 if exact else 1)))
        agreed = common_length([c.token for c in step.committed], tokens[done:])
        different += agreed < len(step.committed) and done + agreed < len(tokens)
        # Keep what agrees with the reference, at least the token that was there before, and go on from there.
        agreed = max(1, agreed)
        engine.keep(0, step.path[:agreed])
        done += agreed
    return different


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--tokens", type=positive, default=20_000, help="tokens per engine")
    p.add_argument(
        "--past-end", action="store_true", help="go on after the end of the answers, where the model is at a loss"
    )
    p.add_argument("-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto", help="of llama.cpp")


def main(args: argparse.Namespace) -> int:
    what = "128 tokens each, past the end of the answer" if args.past_end else "whole answers"
    table = Table(title=f"Picks that guesses changed, the shipped target, {what}")
    for column in ("engine", "mode", "temperature", "tokens", "changed", "smallest gap"):
        table.add_column(column, justify="left" if column in ("engine", "mode") else "right")
    for runtime in RUNTIMES:
        engine = load(shipped("target", runtime), runtime, EngineOptions(threads=1, flash_attention=args.flash_attn))
        for exact in (False, True):
            for temperature in (0.0, 0.8):
                done, changed, smallest = count(engine, temperature, args.tokens // 2, exact, args.past_end)
                mode = "--exact" if exact else "default"
                table.add_row(runtime, mode, str(temperature), str(done), str(changed), f"{smallest:.2g}")
        engine.close()
    Console().print(table)
    return 0


def count(engine: Engine, temperature: float, tokens: int, exact: bool, past_end: bool) -> tuple[int, int, float]:
    """Tokens walked (at least `tokens`), how many picks guesses changed, and the smallest gap seen."""
    done = changed = number = 0
    smallest = float("inf")
    asked = questions(1000, seed=0)
    while done < tokens:
        prompt = prompt_of(engine, asked[number % len(asked)].text)
        params = SamplingParams(temperature=temperature, seed=number)
        reference = walk(engine, prompt, params, 128, ignore_eos=past_end, exact=exact)
        changed += verify_with_guesses(engine, prompt, params, reference, number, exact)
        done += len(reference.tokens)
        smallest = min(smallest, *reference.gaps)
        number += 1
    return done, changed, smallest
