"""The ranges of the sampling parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from duo.errors import RequestError
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from tests.support.sampling import LOGITS

BAD: Sequence[Mapping[str, Any]] = [
    {"temperature": -0.1},
    {"temperature": 101.0},
    {"temperature": math.nan},
    {"temperature": math.inf},
    {"top_k": -1},
    {"top_k": 10**400},
    {"top_p": -0.1},
    {"top_p": 1.01},
    {"min_p": -0.1},
    {"min_p": 1.1},
    {"repetition_penalty": 0.0},
    {"repetition_penalty": math.nan},
    {"presence_penalty": 101.0},
    {"frequency_penalty": -math.inf},
    {"seed": -1},
    {"seed": 2**64},
    {"seed": 10**400},
    {"logit_bias": {3: math.nan}},
    {"logit_bias": {3: 1.0, 4: math.inf}},
]


@pytest.mark.parametrize("knobs", BAD, ids=lambda knobs: str(knobs)[:40])
def test_values_out_of_range_are_refused_by_name(knobs: Mapping[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**knobs)
    (name,) = knobs
    assert refused.value.param == name
    assert str(refused.value).startswith(name)
    assert "\n" not in str(refused.value)


def test_the_edges_of_the_ranges_are_taken() -> None:
    low = SamplingParams(temperature=0, top_k=0, top_p=1e-9, min_p=0, repetition_penalty=1e-9, seed=0)
    high = SamplingParams(temperature=100, top_k=1 << 31, top_p=1, min_p=1, repetition_penalty=100, seed=2**64 - 1)
    assert Sampler(low, [1]).pick(LOGITS, [2]) in range(len(LOGITS))
    assert Sampler(high, [1]).pick(LOGITS, [2]) in range(len(LOGITS))
