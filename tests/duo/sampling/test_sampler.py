"""Coupled sampling: the exact distribution, the agreement that the paper promises, and every knob by naive arithmetic.

Each reference here is written out token by token in plain Python, so that it shares nothing with the code under test.
Seeds are fixed: what passes once passes always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from duo.errors import DeadEndError, RequestError
from duo.sampling.logprobs import logprobs
from duo.sampling.noise import gumbel
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler

DRAWS = 200_000

# Twelve tokens from 0.37 down to 0.0002, not in order, two of them equal.
LOGITS = np.log(
    np.array([0.05, 0.37, 0.001, 0.2, 0.01, 0.12, 0.0002, 0.03, 0.12, 0.0588, 0.035, 0.005], dtype=np.float64)
).astype(np.float32)


def survivors(z: Sequence[float], params: SamplingParams) -> list[int]:
    """Tokens that top-k, then top-p, then min-p leave; of equal logits the lower token goes first."""
    order = sorted(range(len(z)), key=lambda t: (-z[t], t))
    if params.top_k:
        order = order[: params.top_k]
    weights = [math.exp(z[t] - z[order[0]]) for t in order]
    chances = [w / sum(weights) for w in weights]
    kept, before = [], 0.0
    for token, chance in zip(order, chances, strict=True):
        within = params.top_p == 1.0 or before < params.top_p
        if token == order[0] or (within and chance >= params.min_p * chances[0]):
            kept.append(token)
        before += chance
    return sorted(kept)


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


def exact(logits: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    """The distribution that the picks must have, without penalties."""
    z = [float(x) / params.temperature for x in logits]
    kept = survivors(z, params)
    weights = np.array([math.exp(z[t]) if t in kept else 0.0 for t in range(len(z))])
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances


def fit(observed: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """The p-value of the chi-square test; what cannot happen must not have happened."""
    possible = expected > 0
    assert observed[~possible].sum() == 0
    return float(stats.chisquare(observed[possible], expected[possible] * observed.sum()).pvalue)


def draw(logits: NDArray[np.float32], seeds: int, positions: int, **knobs: Any) -> NDArray[np.int64]:
    """Picks [seed, position]. Only the length of the completion counts, and a range has one for free."""
    ranges = [range(position) for position in range(positions)]
    picks = []
    for seed in range(seeds):
        sampler = Sampler(SamplingParams(seed=seed, **knobs), [])
        picks.append([sampler.pick(logits, completion) for completion in ranges])
    return np.array(picks)


# Over the positions of a few answers, over the first tokens of many, and over both.
@pytest.mark.parametrize(
    ("seeds", "positions", "knobs"),
    [
        (1, DRAWS, {}),
        pytest.param(DRAWS // 10, 10, {"top_k": 5}, marks=pytest.mark.slow),
        pytest.param(400, 500, {"top_p": 0.8}, marks=pytest.mark.slow),
        pytest.param(500, 400, {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "temperature": 1.4}, marks=pytest.mark.slow),
    ],
    ids=["all", "top-k", "top-p", "top-k, top-p, min-p and temperature"],
)
def test_picks_have_the_exact_distribution(seeds: int, positions: int, knobs: dict[str, Any]) -> None:
    picks = draw(LOGITS, seeds, positions, **knobs)
    assert picks.size == DRAWS
    expected = exact(LOGITS, SamplingParams(**knobs))
    assert fit(np.bincount(picks.ravel(), minlength=len(LOGITS)), expected) > 1e-3


@pytest.mark.parametrize("knobs", [{"min_p": 0.2}, {"temperature": 0.5}], ids=str)
def test_each_knob_alone_has_the_exact_distribution(knobs: dict[str, Any]) -> None:
    picks = draw(LOGITS, 100, 100, **knobs)
    expected = exact(LOGITS, SamplingParams(**knobs))
    assert fit(np.bincount(picks.ravel(), minlength=len(LOGITS)), expected) > 1e-3


def test_noise_is_gumbel_along_each_of_its_coordinates() -> None:
    many = 20_000
    tokens = np.arange(many)
    along_tokens = gumbel(7, 3, tokens)
    along_positions = np.array([gumbel(7, i, tokens[5:6])[0] for i in range(many)])
    along_seeds = np.array([gumbel(seed, 3, tokens[5:6])[0] for seed in range(many)])
    for noise in (along_tokens, along_positions, along_seeds):
        assert np.isfinite(noise).all()
        assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3
        # The neighbour, and the one after it, know nothing of it.
        assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 4 / math.sqrt(many)
        assert abs(np.corrcoef(noise[:-2], noise[2:])[0, 1]) < 4 / math.sqrt(many)


def test_noise_of_a_token_does_not_depend_on_its_company() -> None:
    tokens = np.array([900, 3, 77], dtype=np.int64)
    alone = [gumbel(5, 11, tokens[i : i + 1])[0] for i in range(3)]
    assert gumbel(5, 11, tokens).tolist() == alone == gumbel(5, 11, np.arange(1000))[tokens].tolist()


@pytest.mark.parametrize("along", ["positions", "seeds"])
def test_neighbouring_picks_are_independent(along: str) -> None:
    logits = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05])).astype(np.float32)
    shape = (2, 10_000) if along == "positions" else (20_000, 1)
    picks = draw(logits, *shape)
    for distance in (1, 2) if along == "positions" else (1,):
        first, second = (picks[:, :-distance], picks[:, distance:]) if along == "positions" else (picks[:-1], picks[1:])
        table = np.zeros((5, 5), dtype=np.int64)
        np.add.at(table, (first.ravel(), second.ravel()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


MIXED: Sequence[dict[str, Any]] = [{}, {"top_k": 6}, {"top_p": 0.9}, {"temperature": 0.7}]


def test_two_models_agree_as_often_as_the_coupling_promises() -> None:
    """Daliri, Musco and Suresh, theorem 3: at least (1 - TV) / (1 + TV) for every pair of distributions."""
    rng = np.random.default_rng(11)
    draws, pairs = 1000, 32
    total = promised = possible = 0.0
    for pair in range(pairs):
        spread = float(rng.choice([0.1, 0.5, 2.0]))
        p = rng.dirichlet(np.full(16, spread)) + 1e-12
        other = rng.dirichlet(np.full(16, spread)) + 1e-12
        q = p + rng.uniform(0, 1) * (other - p)
        knobs = MIXED[pair % len(MIXED)]
        of_p, of_q = np.log(p).astype(np.float32), np.log(q).astype(np.float32)
        params = SamplingParams(**knobs)
        tv = float(np.abs(exact(of_p, params) - exact(of_q, params)).sum() / 2)
        bound = (1 - tv) / (1 + tv)
        sampler = Sampler(SamplingParams(seed=pair, **knobs), [])
        agreed = sum(sampler.pick(of_p, range(i)) == sampler.pick(of_q, range(i)) for i in range(draws)) / draws
        # Four standard deviations for one of many pairs.
        assert agreed >= bound - 4 * math.sqrt(bound * (1 - bound) / draws) - 1e-9, (pair, tv)
        # No coupling at all agrees more often than 1 - TV.
        assert agreed <= 1 - tv + 4 * math.sqrt(tv * (1 - tv) / draws) + 1e-9, (pair, tv)
        total, promised, possible = total + agreed, promised + bound, possible + 1 - tv
    # Over all pairs the margin is gone: chance evens out.
    assert promised / pairs < total / pairs < possible / pairs


def test_rank_predicts_how_often_the_other_model_picks_each_guess() -> None:
    """A draft that is the target plus noise of its own: the sum of all chances claimed is what comes true."""
    rng = np.random.default_rng(5)
    positions = 3000
    claimed, true = np.zeros(3), np.zeros(3)
    sampler = Sampler(SamplingParams(seed=9), [])
    for position in range(positions):
        draft = rng.normal(0, 1.5, 20)
        # With Gumbel noise between the two, softmax(score) is the exact chance of each guess.
        target = draft + rng.gumbel(0, 1, 20)
        ranked = sampler.rank(draft, range(position), 3)
        pick = sampler.pick(target, range(position))
        claimed += [chance for _, chance in ranked]
        true += [token == pick for token, _ in ranked]
    for k in range(3):
        assert abs(claimed[k] - true[k]) < 4 * math.sqrt(positions * 0.25)
    assert true[0] > true[1] > true[2]


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


def test_seeds_and_positions_matter() -> None:
    flat = np.zeros(64, dtype=np.float32)
    rows = draw(flat, 20, 40)
    assert len({tuple(row) for row in rows}) == 20
    assert all(len(set(row)) > 15 for row in rows.tolist())


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
    """The same pick as from all tokens, and the same guesses; their chances are nearly the same."""
    rng = np.random.default_rng(seed % 1000)
    logits = (rng.normal(size=size) * spread).astype(np.float32)
    logits[rng.integers(0, size, top)] += 6.0
    sampler, completion = Sampler(SamplingParams(temperature=temperature, seed=seed), []), [1, 2, 3]
    _, scores = sampler.scores(logits, completion)
    assert sampler.pick(logits, completion) == int(scores.argmax())
    exact = np.exp(scores - scores.max())
    order = [token for token in np.argsort(-scores, kind="stable")[:4] if exact[token] > 0.01]
    ranked = sampler.rank(logits, completion, 4)[: len(order)]
    assert [token for token, _ in ranked] == order
    for token, chance in ranked:
        share = exact[token] / exact.sum()
        assert share <= chance * (1 + 1e-9) and chance < 2 * share + 0.02
    z = logits.astype(np.float64) / temperature
    noise = gumbel(seed, len(completion), np.arange(size))
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
    tokens, scores = sampler.scores(logits, completion)
    assert tokens is not None and set(tokens.tolist()) <= set(allowed)
    assert tokens[scores.argmax()] == pick
    with pytest.raises(DeadEndError):
        sampler.pick(logits, [*completion, 0])


@pytest.mark.parametrize("count", [3, 30_000])
def test_of_a_large_vocabulary_the_allowed_tokens_keep_their_noise(count: int) -> None:
    """A token's noise is its own, so that a pick that is allowed stays the pick."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=60_000).astype(np.float32) * 3
    plain = Sampler(SamplingParams(seed=5), [])
    for position in range(20):
        pick = plain.pick(logits, range(1, position + 1))
        others = {int(token) for token in rng.choice(len(logits), count, replace=False)}
        constrained = Sampler(SamplingParams(seed=5), [], Only([pick, *others - {pick}]))
        assert constrained.pick(logits, range(1, position + 1)) == pick


@pytest.mark.parametrize("size", [12, 128_000])
def test_log_probabilities(size: int) -> None:
    logits = (np.random.default_rng(1).normal(size=size) * 4).astype(np.float32)
    logits[3] = logits[7] = 30.0
    before = logits.copy()
    exact = logits.astype(np.float64) - math.log(np.exp(logits.astype(np.float64)).sum())
    for top in (0, 1, 5):
        found = logprobs(logits, 5, top)
        assert found.picked == pytest.approx(exact[5], abs=1e-9)
        order = np.argsort(-exact, kind="stable")[:top]
        assert [token for token, _ in found.top] == order.tolist(), "of equals the lower first"
        assert [chance for _, chance in found.top] == pytest.approx(exact[order].tolist(), abs=1e-9)
    assert len(logprobs(logits, 5, size + 1).top) == size
    assert np.array_equal(logits, before)
