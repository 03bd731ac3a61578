"""What a target says alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from tests.support.fakes import FakeModel

TARGET = FakeModel()


def text_without_backs(prompt: Sequence[int], sampling: SamplingParams, eos: Collection[int], limit: int) -> list[int]:
    sampler, path = Sampler(sampling, prompt), list(prompt)
    while len(path) < limit and not (len(path) > len(prompt) and path[-1] in eos):
        path.append(sampler.pick(TARGET.logits(path), path[len(prompt) :]))
    return path[len(prompt) :]
