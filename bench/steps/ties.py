"""Near ties: where floating point may choose between two tokens, and how often it does.

A row's logits depend in their last bits on how many rows shared its forward pass and on where its keys and values lie.
Where the two best tokens are closer than that, the pick may differ between a run with guesses and one without. This
file walks an answer with the same engine in one fixed way, and says how close the call was at every token. So a test
can prove that a difference is such a tie. How often picks change is counted by `bench.steps.sameness`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duo.engines import ROOT, Engine, Row
from duo.prefix import Prefix
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from lead.decode.session import Session

TOLERANCE = {"transformers": 2e-3, "llamacpp": 0.15}
"""Largest gap between two scores that counts as a near tie. It is far above the noise of float32. It is above that of
bf16 weights in llama.cpp too, which rounds activations to bf16 before every product."""


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
) -> Walk:
    """Generate without guesses, as a lead does."""
    eos = () if ignore_eos else engine.vocabulary.eos
    session = Session(0, len(prompt), params, Prefix(prompt), eos, len(prompt) + count)
    sampler = Sampler(params, prompt)
    engine.truncate(0, 0)
    engine.extend(0, list(prompt[:-1]))
    gaps: list[float] = []
    while session.finish_reason is None:
        logits = engine.forward(session.rows([])).copy()
        best, *second = (chance for _, chance in sampler.rank(logits[0], session.completion, 2))
        gaps.append(math.log(best / second[0]) if second and second[0] else math.inf)
        engine.commit(0, session.verify([], logits).path)
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


def noise(engine: Engine, prompt: Sequence[int], tokens: Sequence[int], width: int = 8) -> float:
    """How much logits change between passes of one row and of several: the largest difference along an answer.

    At each place the tokens are compared that are best or second best in either pass, because only they can be picked.
    """
    passes = []
    for rows in (1, width):
        engine.truncate(0, 0)
        engine.extend(0, list(prompt))
        logits = []
        for begin in range(0, len(tokens), rows):
            chain = [Row(i, 0, t, i - 1 if i else ROOT) for i, t in enumerate(tokens[begin : begin + rows])]
            logits.append(engine.forward(chain).copy())
            engine.commit(0, [row.id for row in chain])
        passes.append(np.concatenate(logits))
    one, several = passes
    best = np.concatenate([np.argpartition(some, -2, axis=-1)[:, -2:] for some in passes], axis=-1)
    return float(np.abs(np.take_along_axis(one - several, best, axis=-1)).max())
