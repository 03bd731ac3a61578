"""The sampling parameters of an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from duo.errors import RequestError

Floats = NDArray[np.float32] | NDArray[np.float64]

Ints = NDArray[np.int64]

SEED_BITS = 64

MAX_GRAMMAR_BYTES = 64 * 1024
"""Longest text of a grammar, in UTF-8."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to pick tokens. The defaults leave the model's distribution as it is.

    temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 are off; top_p 0 leaves the likeliest token. The repetition
    penalty divides positive and multiplies negative logits of tokens in prompt or completion (Keskar et al., CTRL,
    1909.05858). Presence and frequency penalties are OpenAI's and count the completion only.

    Raises RequestError for values outside their range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    grammar: str = ""
    """What the text must follow, in the form of `duo.sampling.grammar`; empty: anything."""

    def __post_init__(self) -> None:
        def check(name: str, low: float, high: float, above: bool = False) -> None:
            value = getattr(self, name)
            if not low <= value <= high or (above and value == low):
                raise RequestError(f"{name} is {value}: it must lie {'above' if above else 'from'} {low:g} "
                                   f"{'and at most' if above else 'to'} {high:g}", name)  # fmt: skip

        check("temperature", 0, 100)
        check("top_k", 0, 1 << 31)
        check("top_p", 0, 1)
        check("min_p", 0, 1)
        check("repetition_penalty", 0, 100, above=True)
        check("presence_penalty", -100, 100)
        check("frequency_penalty", -100, 100)
        check("seed", 0, (1 << SEED_BITS) - 1)
        if any(not -math.inf < bias < math.inf for bias in self.logit_bias.values()):
            raise RequestError("logit_bias holds a value that is not a finite number", "logit_bias")
        size = len(self.grammar.encode("utf-8", errors="replace"))
        if size > MAX_GRAMMAR_BYTES:
            raise RequestError(
                f"the grammar has {size} bytes, at most {MAX_GRAMMAR_BYTES} are allowed: simplify it", "response_format"
            )


class Constraint(Protocol):
    """What an answer must follow."""

    def allowed(self, completion: Sequence[int]) -> Ints | None:
        """Ids of the tokens that may follow the answer so far: ascending, at least one, read-only. None: any token.

        A function of `completion` alone. Raises DeadEndError if no answer may begin like this.
        """
