"""Near ties: tokens between which floating point may choose.

The last bits of a row's logits depend on how many rows share its forward pass, and on where its keys and values lie.
If the two best tokens are closer than that, a run with guesses may pick the other one. `walk` decodes an answer in one
fixed way, and says how close the choice was at every token. So a test can prove that a difference is a near tie. The
command `ties` counts how often tokens change.
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
"""The largest gap between two scores that counts as a near tie. Noise stays well below it: that of float32, and that
of bf16 weights in llama.cpp, which rounds activations to bf16 before every product."""


@dataclass(frozen=True)
class Walk:
    """An answer. gaps: the best score minus the second best, at each token."""

    tokens: Sequence[int]
    gaps: Sequence[float]


def walk(
    engine: Engine,
    prompt: Sequence[int],
    params: SamplingParams,
    count: int,
    ignore_eos: bool = True,
) -> Walk:
    """Decodes without guesses, as a lead does, in slot 0."""
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
    """Index of the first token of the reference that `text` does not have. None if `text` is the reference."""
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
    """The largest difference of a logit between passes of one row and passes of several, along an answer.

    Only tokens that are best or second best in either pass are compared, for only they can be picked.
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
