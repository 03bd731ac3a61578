"""Synchronous speculation and free drafts change no token."""

from __future__ import annotations

import pytest

from bench.compare.speculate import ChainDraft, Decoded, Target, free, synchronous
from duo.draft.policy import CHAIN, TREE
from duo.draft.scaling import Scale, Sharpness
from duo.engines.cost import CostCurve
from duo.sampling.params import SamplingParams
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from tests.support.fakes import CheckedEngine, FakeModel


class OneSlot(CheckedEngine):
    batch = 512


def target() -> Target:
    return Target(OneSlot(FakeModel()))  # type: ignore[arg-type]


def alone(prompt: list[int], n: int, params: SamplingParams) -> list[int]:
    """What the target says by itself."""
    drafts = ChainDraft(OneSlot(FakeModel(1.0)))  # type: ignore[arg-type]
    return synchronous(target(), drafts, prompt, n, params, 1, 2.0).tokens


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("length", "floor"), [(1, 0.0), (4, 0.0), (12, 0.3)])
def test_synchronous_speculation_changes_no_token(temperature: float, length: int, floor: float) -> None:
    it, drafts = target(), ChainDraft(OneSlot(FakeModel(0.3)))  # type: ignore[arg-type]
    for seed in range(3):
        params = SamplingParams(temperature=temperature, seed=seed)
        prompt = [1, 2, 3, seed]
        decoded = synchronous(it, drafts, prompt, 40, params, length, floor)
        assert decoded.tokens == alone(prompt, 40, params)
        assert 0 < decoded.accepted <= decoded.drafted


@pytest.mark.parametrize("policy", [CHAIN, TREE])
def test_free_drafts_change_no_token_and_take_no_time(policy: object) -> None:
    clock = iter(range(100_000))
    planner = Planner(CostCurve({1: 1.0, 16: 1.1}), Limits())
    draft = OneSlot(FakeModel(0.3))
    decoded: Decoded = free(
        target(), draft, Scale(), Sharpness(), planner, [1, 2, 3], 40, SamplingParams(seed=3),  # type: ignore[arg-type]
        policy, lambda: float(next(clock)),  # type: ignore[arg-type]
    )  # fmt: skip
    assert decoded.tokens == alone([1, 2, 3], 40, SamplingParams(seed=3))
    assert decoded.accepted > 10
