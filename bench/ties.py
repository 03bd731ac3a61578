"""Near ties: where floating point may choose between two tokens, and how often it does.

A row's logits depend in their last bits on how many rows shared its forward pass and on where its keys and values lie.
Where the two best tokens are closer than that, the pick may differ between a run with guesses and one without. This
file walks an answer with the same engine in one fixed way and says how close the call was at every token, so that a
test can prove that a difference is such a tie, and it counts how often guesses change a pick:

    python -m bench ties
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.models import RUNTIMES, Runtime, shipped
from duo.engines import Engine, EngineOptions, load
from duo.models.corpus import questions
from duo.prefix import Prefix
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


def walk(engine: Engine, prompt: Sequence[int], params: SamplingParams, count: int, ignore_eos: bool = True) -> Walk:
    """Generate with lone rows and no guesses."""
    session = Session(
        0, len(prompt), params, Prefix(prompt), () if ignore_eos else engine.vocabulary.eos, len(prompt) + count
    )
    sampler = Sampler(params, prompt)
    engine.truncate(0, 0)
    engine.extend(0, list(prompt[:-1]))
    gaps: list[float] = []
    while session.finish_reason is None:
        logits = engine.forward(session.rows([])).copy()
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
    engine: Engine, prompt: Sequence[int], params: SamplingParams, reference: Walk, seed: int
) -> int:
    """Go along the reference in steps of random draft trees; return at how many tokens the picks differ.

    Each step guesses the true next tokens, some of them wrongly, and wrong siblings: shapes that backs send. After a
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
            session.tree.merge(Expansion(len(at), at.hash, guesses, [0.5] * len(guesses)), "bench")
            at.extend([true])
        nodes = [node for node, _ in session.tree.best(16)]
        step = session.verify(nodes, engine.forward(session.rows(nodes)))
        # Keep only what agrees with the reference, and go on from there.
        agreed = 0
        for committed, true in zip(step.committed, tokens[done:], strict=False):
            if committed.token != true:
                different += 1
                break
            agreed += 1
        engine.keep(0, step.path[: max(1, agreed)])
        if agreed == 0:
            agreed = 1
        done += agreed
    return different


def main(tokens: int) -> int:
    table = Table(title="Picks that guesses changed, the shipped target")
    for column in ("engine", "temperature", "tokens", "changed", "smallest gap"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for runtime in RUNTIMES:
        engine = load(shipped("target", runtime), runtime, EngineOptions(threads=1))
        for temperature in (0.0, 0.8):
            row = _count(engine, runtime, temperature, tokens // 2)
            table.add_row(*row)
        engine.close()
    Console().print(table)
    return 0


def _count(engine: Engine, runtime: Runtime, temperature: float, tokens: int) -> tuple[str, ...]:
    done = changed = 0
    smallest = float("inf")
    for number, question in enumerate(questions(tokens, seed=0)):
        if done >= tokens:
            break
        prompt = prompt_of(engine, question.text)
        params = SamplingParams(temperature=temperature, seed=number)
        reference = walk(engine, prompt, params, 128, ignore_eos=False)
        changed += verify_with_guesses(engine, prompt, params, reference, number)
        done += len(reference.tokens)
        smallest = min(smallest, *reference.gaps)
    return runtime, str(temperature), str(done), str(changed), f"{smallest:.2g}"
