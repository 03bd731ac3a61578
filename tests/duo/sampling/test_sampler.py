"""Every knob of the sampler by naive arithmetic, ties, and large vocabularies.

Each reference here is written out token by token in plain Python, so that it shares nothing with the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from duo.errors import DeadEndError
from duo.sampling.noise import gumbel
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from tests.support.sampling import LOGITS, survivors


def penalised(
    logits: Sequence[float], prompt: Sequence[int], completion: Sequence[int], p: SamplingParams
) -> list[float]:
    z = [float(x) for x in logits]
    for token in range(len(z)):
        if token in prompt or token in completion:
            z[token] = z[token] / p.repetition_penalty if z[token] > 0 else z[token] * p.repetition_penalty
        if token in completion:
            z[token] -= p.presence_penalty + p.frequency_penalty * list(completion).count(token)
        z[token] += p.logit_bias.get(token, 0.0)
    return z


def fractions(limit: int) -> st.SearchStrategy[float]:
    """Multiples of 1/64: exact in every step before the exponential, and often equal."""
    return st.integers(-64 * limit, 64 * limit).map(lambda n: n / 64)


logit_lists = st.lists(fractions(8) | st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=2, max_size=12)


@st.composite
def knobs(draw: st.DrawFn, tokens: int) -> SamplingParams:
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 5, 40])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.9, 0.35])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.13, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.7, 1.3])),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, -0.4, 0.6])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, -0.2, 0.7])),
        logit_bias=draw(st.dictionaries(st.integers(0, tokens - 1), fractions(5), max_size=3)),
        seed=draw(st.integers(0, 2**64 - 1)),
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pick_and_rank_against_naive_arithmetic(data: st.DataObject) -> None:
    logits = data.draw(logit_lists)
    size = len(logits)
    params = data.draw(knobs(size))
    prompt = data.draw(st.lists(st.integers(0, size - 1), max_size=6))
    completion = data.draw(st.lists(st.integers(0, size - 1), max_size=8))
    scale = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    sampler = Sampler(params, prompt)
    array = np.array(logits, dtype=np.float32)
    z = penalised([float(x) for x in array], prompt, completion, params)
    allowed = list(range(size))
    if params.temperature:
        z = [x / params.temperature for x in z]
        allowed = survivors(z, params)
        noise = gumbel(params.seed, len(completion), np.arange(size))
        z = [x + float(g) for x, g in zip(z, noise, strict=True)]
    weights = {t: math.exp((z[t] - max(z[a] for a in allowed)) / scale) for t in allowed}
    expected = {t: w / sum(weights.values()) for t, w in weights.items()}

    pick = sampler.pick(array, completion)
    # Not by the highest score itself: the order of floating-point steps may decide a near tie.
    assert pick in allowed
    assert z[pick] == pytest.approx(max(z[t] for t in allowed), rel=1e-9, abs=1e-9)
    ranked = sampler.rank(array, completion, size, scale)
    assert ranked[0][0] == pick
    assert sorted(t for t, _ in ranked) == allowed
    assert dict(ranked) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    chances = [chance for _, chance in ranked]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1.0)
    # Fewer guesses are the first of more, and asking changes nothing.
    for count in (1, 2):
        assert sampler.rank(array, completion, count, scale) == ranked[:count]
    assert np.array_equal(array, np.array(logits, dtype=np.float32))


def test_equal_parameters_pick_the_same_whoever_holds_them() -> None:
    params = SamplingParams(temperature=0.8, top_k=8, top_p=0.95, repetition_penalty=1.1, seed=2**64 - 1)
    lead, back = Sampler(params, [1, 2, 3]), Sampler(params, [1, 2, 3])
    completion: list[int] = []
    for _ in range(50):
        completion.append(lead.pick(LOGITS, completion))
    # Asked backwards, and asked for float64 copies of the same logits: there is no hidden state.
    again = [back.pick(LOGITS.astype(np.float64), completion[:i]) for i in reversed(range(50))]
    assert again[::-1] == completion
    assert len(set(completion)) > 3


def test_greedy_takes_the_best_and_the_lower_token_of_equals() -> None:
    sampler = Sampler(SamplingParams(temperature=0, top_k=1, top_p=0.1, seed=4), [])
    assert sampler.pick(np.array([0.0, 3.0, 1.0, 3.0], dtype=np.float32), []) == 1
    assert [t for t, _ in sampler.rank(np.array([0.0, 3.0, 1.0, 3.0, 3.0], dtype=np.float32), [], 4)] == [1, 3, 4, 2]


@pytest.mark.parametrize("size", [8, 40, 1000])
def test_ties_go_to_the_lower_token_everywhere(size: int) -> None:
    """bf16 logits are full of ties, and two machines must cut them at the same place."""
    flat = np.zeros(size, dtype=np.float32)
    flat[[1, size // 2]] = 1.0
    greedy = Sampler(SamplingParams(temperature=0), [])
    assert [t for t, _ in greedy.rank(flat, [], 5)] == [1, size // 2, 0, 2, 3]
    top_k = Sampler(SamplingParams(top_k=5, seed=3), [])
    assert {top_k.pick(flat, range(i)) for i in range(300)} == {1, size // 2, 0, 2, 3}
    # The two likelier tokens, then as many of the others as it takes, from the lowest up.
    top_p = Sampler(SamplingParams(top_p=(2 * math.e + 2.5) / (2 * math.e + size - 2), seed=3), [])
    assert {top_p.pick(flat, range(i)) for i in range(300)} == {1, size // 2, 0, 2, 3}


def test_cuts_fall_where_they_should() -> None:
    logits = np.log(np.array([0.3, 0.5, 0.2])).astype(np.float32)

    def left(**knobs: Any) -> int:
        return len(Sampler(SamplingParams(**knobs), []).rank(logits, [], 3))

    assert [left(top_p=p) for p in (0.0, 0.01, 0.499, 0.501, 0.799, 0.801, 1.0)] == [1, 1, 1, 2, 2, 3, 3]
    assert [left(min_p=p) for p in (0.0, 0.399, 0.401, 0.599, 0.601, 1.0)] == [3, 3, 2, 2, 1, 1]
    assert [left(top_k=k) for k in (0, 1, 2, 3, 4)] == [3, 1, 2, 3, 3]
    # top-p looks at what top-k left: 0.5 of 0.8 is more than 0.6.
    assert [left(top_p=0.6), left(top_p=0.6, top_k=2), left(top_p=0.62, top_k=2)] == [2, 1, 1]
    # Temperature comes before all of them.
    assert [left(min_p=0.5), left(min_p=0.5, temperature=2.0), left(min_p=0.5, temperature=0.5)] == [2, 3, 1]


def test_impossible_tokens_are_never_picked() -> None:
    logits = np.full(6, -np.inf, dtype=np.float32)
    logits[[2, 4]] = 0.0
    for knobs in ({}, {"top_k": 3}, {"top_p": 0.999}, {"temperature": 0.0}):
        sampler = Sampler(SamplingParams(seed=1, **knobs), [])
        assert {sampler.pick(logits, range(i)) for i in range(64)} <= {2, 4}
        ranked = dict(sampler.rank(logits, [], 6))
        assert ranked[2] + ranked[4] == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_a_very_low_temperature_is_greedy(temperature: float) -> None:
    logits = np.array([1.0, 7.0, 7.5, 3.0], dtype=np.float32)
    for knobs in ({}, {"top_k": 2}, {"top_p": 0.9}):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=8, **knobs), [])
        assert {sampler.pick(logits, range(i)) for i in range(30)} == {2}


def test_logit_bias_bans_and_forces() -> None:
    banned = Sampler(SamplingParams(logit_bias={1: -1000.0, 3: -1000.0}), [])
    assert {banned.pick(LOGITS, range(i)) for i in range(300)}.isdisjoint({1, 3})
    forced = Sampler(SamplingParams(logit_bias={6: 100.0}), [])
    assert {forced.pick(LOGITS, range(i)) for i in range(100)} == {6}


def test_penalties_look_at_prompt_and_completion_as_they_should() -> None:
    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)

    def pick(prompt: Sequence[int], completion: Sequence[int], **knobs: float) -> int:
        return Sampler(SamplingParams(temperature=0, **knobs), prompt).pick(logits, completion)  # type: ignore[arg-type]

    assert pick([0], [], repetition_penalty=1.2) == 1
    assert pick([], [0], repetition_penalty=1.2) == 1
    assert pick([0], [], presence_penalty=0.5) == 0
    assert pick([], [0], presence_penalty=0.5) == 1
    assert pick([0, 0, 0], [], frequency_penalty=0.5) == 0
    assert pick([], [0], frequency_penalty=0.06) == 0
    assert pick([], [0, 0], frequency_penalty=0.06) == 1


def test_a_flatter_scale_trusts_the_first_guess_less() -> None:
    sampler = Sampler(SamplingParams(seed=2), [])
    firsts = [sampler.rank(LOGITS, [], 1, scale)[0] for scale in (0.5, 1.0, 2.0, 50.0)]
    assert len({token for token, _ in firsts}) == 1
    assert [c for _, c in firsts] == sorted((c for _, c in firsts), reverse=True)
    assert firsts[-1][1] == pytest.approx(1 / len(LOGITS), rel=0.2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    spread=st.sampled_from([0.0, 0.3, 1.0, 3.0, 8.0]),
    size=st.sampled_from([8193, 20_000, 128_256]),
    top=st.sampled_from([0, 1, 5, 3000]),
    temperature=st.sampled_from([0.1, 0.8, 1.5]),
)
def test_of_a_large_vocabulary_only_contenders_are_looked_at_and_nothing_changes(
    seed: int, spread: float, size: int, top: int, temperature: float
) -> None:
    """The pick and the guesses are the same as from all tokens. The chances are nearly the same."""
    rng = np.random.default_rng(seed % 1000)
    logits = (rng.normal(size=size) * spread).astype(np.float32)
    logits[rng.integers(0, size, top)] += 6.0
    sampler, completion = Sampler(SamplingParams(temperature=temperature, seed=seed), []), [1, 2, 3]
    z = logits.astype(np.float64) / temperature
    noise = gumbel(seed, len(completion), np.arange(size))
    scores = z + noise
    assert sampler.pick(logits, completion) == int(scores.argmax())
    exact = np.exp(scores - scores.max())
    order = [token for token in np.argsort(-scores, kind="stable")[:4] if exact[token] > 0.01]
    ranked = sampler.rank(logits, completion, 4)[: len(order)]
    assert [token for token, _ in ranked] == order
    for token, chance in ranked:
        share = exact[token] / exact.sum()
        assert share <= chance * (1 + 1e-9) and chance < 2 * share + 0.02
    assert sampler.picks(logits, completion, [1.0, 1.6, 4.2]) == [
        int((z * sharpness + noise).argmax()) for sharpness in (1.0, 1.6, 4.2)
    ]


class Only:
    """Allows these tokens, anywhere but after token 0."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = np.array(sorted(tokens), dtype=np.int64)

    def allowed(self, completion: Sequence[int]) -> NDArray[np.int64]:
        if len(completion) and completion[-1] == 0:
            raise DeadEndError("nothing follows token 0")
        return self.tokens


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_constraint_is_as_if_the_other_tokens_were_impossible(data: st.DataObject) -> None:
    logits = np.array(data.draw(logit_lists), dtype=np.float32)
    size = len(logits)
    params = data.draw(knobs(size))
    prompt = data.draw(st.lists(st.integers(0, size - 1), max_size=6))
    completion = data.draw(st.lists(st.integers(1, size - 1), max_size=8))
    allowed = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    impossible = logits.copy()
    impossible[[t for t in range(size) if t not in allowed]] = -np.inf
    sampler, plain = Sampler(params, prompt, Only(allowed)), Sampler(params, prompt)
    pick = sampler.pick(logits, completion)
    assert pick == plain.pick(impossible, completion) and pick in allowed
    ranked = sampler.rank(logits, completion, size)
    others = [(token, chance) for token, chance in plain.rank(impossible, completion, size) if token in allowed]
    assert [token for token, _ in ranked] == [token for token, _ in others[: len(ranked)]]
    assert [chance for _, chance in ranked] == pytest.approx([chance for _, chance in others[: len(ranked)]])
    if params.temperature:  # without noise there is nothing that could lead it astray
        assert sampler.picks(logits, completion, [1.0]) == [pick]
    assert {token for token, _ in ranked} <= set(allowed) and ranked[0][0] == pick
    with pytest.raises(DeadEndError):
        sampler.pick(logits, [*completion, 0])


@pytest.mark.parametrize("count", [3, 30_000])
def test_of_a_large_vocabulary_the_allowed_tokens_keep_their_noise(count: int) -> None:
    """A token's noise is its own, so a pick stays the pick if it is allowed."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=60_000).astype(np.float32) * 3
    plain = Sampler(SamplingParams(seed=5), [])
    for position in range(20):
        pick = plain.pick(logits, range(1, position + 1))
        others = {int(token) for token in rng.choice(len(logits), count, replace=False)}
        constrained = Sampler(SamplingParams(seed=5), [], Only([pick, *others - {pick}]))
        assert constrained.pick(logits, range(1, position + 1)) == pick
