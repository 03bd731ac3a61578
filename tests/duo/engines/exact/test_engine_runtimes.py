"""The same bits from real engines: with guesses, without, asked twice, in company, after other prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.harness import real
from bench.harness.decoding import chat_prompt
from bench.harness.models import shipped
from bench.kinds import make
from bench.steps.changed_tokens import GuessedAnswers, in_all_situations
from duo.engines import ROOT, Engine, EngineOptions, Row, load, measure
from duo.engines.base import Chunk
from duo.engines.cost import CostCurve
from duo.engines.exact import decision, price, search
from duo.engines.exact.decision import ExactOptions
from duo.engines.exact.engine import ExactEngine
from duo.engines.exact.search import SearchResult
from duo.engines.exact.widths import WidthClass
from duo.engines.llamacpp import flash
from duo.engines.llamacpp import load as load_module
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.runtime import Runtime
from duo.engines.load import after_trial
from duo.engines.transformers.engine import TransformersEngine
from duo.errors import ModelError
from duo.sampling.params import SamplingParams

SLOTS = 3
QUESTIONS = ["How are you?", "How are you today, and what do you like to eat?", "What is the capital of France?"]
KINDS = [("llamacpp", "auto", "off"), ("llamacpp", "auto", "on"), ("transformers", "float32", "off"),
         pytest.param(("transformers", "bfloat16", "off"), marks=pytest.mark.slow)]  # fmt: skip


def options(dtype: str, way: str) -> EngineOptions:
    return EngineOptions(
        threads=1, context=384, slots=SLOTS, tree_rows=48, batch=128, chains=True, dtype=dtype,
        flash_attention="on" if way == "on" else "off",
    )  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda kind: " ".join(kind))
def exact(request: pytest.FixtureRequest) -> Iterator[ExactEngine]:
    runtime, dtype, way = request.param
    engine = load(shipped("draft", runtime), runtime, options(dtype, way))
    yield _exact(engine)
    engine.close()


def _exact(engine: Engine) -> ExactEngine:
    assert not decision.inexact(engine)
    found = search.find_class(engine, 32)
    assert found.widths is not None
    return ExactEngine(engine, found.widths, CostCurve(found.seconds))


def _same_in_all_ways(engine: ExactEngine, tokens: int, questions: list[str]) -> None:
    prompts = [chat_prompt(engine, question) for question in questions]
    for temperature in (0.0, 0.8):
        params = [SamplingParams(temperature=temperature, seed=seed) for seed in range(len(prompts))]
        found = in_all_situations(GuessedAnswers(engine, 1, tokens), prompts, params)
        assert all(len(answer) == tokens for answer in found["alone"])
        for way, answers in found.items():
            assert answers == found["alone"], way


@pytest.mark.slow
def test_texts_are_the_same_in_all_ways(exact: ExactEngine) -> None:
    _same_in_all_ways(exact, 40, QUESTIONS)


def test_logits_are_the_same_to_the_last_bit(exact: ExactEngine) -> None:
    """Chains of random lengths beside other slots give the bits of one token at a time, over hundreds of tokens."""
    draw = np.random.default_rng(5)
    size, length = exact.vocabulary.size, 330
    text = [int(token) for token in draw.integers(0, size, length)]
    other = [int(token) for token in draw.integers(0, size, length)]

    def chain(slot: int, tokens: list[int], first: int) -> list[Row]:
        return [Row(first + i, slot, token, first + i - 1 if i else ROOT) for i, token in enumerate(tokens)]

    exact.extend(0, text[:100])
    alone = []
    for token in text[100:]:
        alone.append(exact.forward(chain(0, [token], 0))[0].copy())
        exact.commit(0, [0])
    for begin in range(0, 100, 30):
        exact.forward((), [Chunk(1, text[begin : min(100, begin + 30)])])
    exact.extend(2, other[:57])
    at, beside = 100, 57
    while at < length:
        right = int(draw.integers(1, min(exact.widths.widest, length - at) + 1))
        wrong = int(draw.integers(0, exact.widths.widest - right + 1))
        wrong = min(wrong, exact.context - at - right)
        rows = chain(1, text[at : at + right] + other[:wrong], 0)
        company = int(draw.integers(0, 1 + min(exact.widths.widest, length - beside)))
        rows += chain(2, other[beside : beside + company], len(rows))
        logits = exact.forward(rows)
        for i in range(right):
            assert logits[i].tobytes() == alone[at - 100 + i].tobytes(), f"token {at + i}, {len(rows)} rows"
        exact.commit(1, range(right))
        if company:
            exact.commit(2, range(right + wrong, len(rows)))
        at, beside = at + right, beside + company


def test_a_restored_slot_has_the_bits_of_the_one_that_was_saved(exact: ExactEngine) -> None:
    draw = np.random.default_rng(6)
    text = [int(token) for token in draw.integers(0, exact.vocabulary.size, 300)]
    exact.extend(0, text[:270])
    rows = [Row(i, 0, token, i - 1 if i else ROOT) for i, token in enumerate(text[270:274])]
    exact.forward(rows)
    exact.commit(0, [0, 1])
    copy = exact.save(0)
    assert copy.length == exact.length(0) == 272
    exact.extend(1, text[100:150])  # what is in the other slot goes
    assert exact.restore(1, copy, text[:272]) == 272
    for length in (272, 271, 256, 200):
        left = exact.restorable(0, length)
        assert exact.restorable(1, length) == copy.restorable(length) == left
        assert exact.truncate(0, left) == exact.truncate(1, left) == left
        bits = []
        for slot in (0, 1):
            bits.append(exact.forward([Row(0, slot, 7), Row(1, slot, 9, 0)]).tobytes())
            exact.commit(slot, ())
        assert bits[0] == bits[1], length


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights"), [("smollm2", "Q4_1"), ("gemma3", "Q4_K_M"), ("smollm2", "bfloat16")])
def test_real_models_say_the_same_in_all_ways(name: real.Name, weights: str) -> None:
    runtime = "transformers" if "float" in weights else "llamacpp"
    try:
        path = real.model(name, "transformers" if "float" in weights else "llamacpp")
    except real.UnavailableError as error:
        pytest.skip(str(error))
    engine = load(str(path), "auto", options(weights if runtime == "transformers" else "auto", "on"))
    try:
        _same_in_all_ways(_exact(engine), 12, QUESTIONS[:2])
    finally:
        engine.close()


# -- llama.cpp: what the lead chooses at load --------------------------------------------------------------------------


def test_weights_are_served_as_trees_where_nobody_needs_chains() -> None:
    engine = load(shipped("draft", "llamacpp"), "llamacpp", options("auto", "off"))
    assert isinstance(engine, ChainEngine) and not engine.rollback.trees
    engine.extend(0, [1, 2, 3])
    trees = after_trial(engine, chains=False)
    assert trees.rollback.trees and trees.length(0) == 0
    trees.extend(0, [1, 2, 3])
    assert trees.forward([Row(0, 0, 4), Row(1, 0, 5)]).shape == (2, trees.vocabulary.size)
    assert after_trial(trees, chains=False) is trees
    trees.close()


@pytest.mark.parametrize("chains", [True, False])
def test_classes_are_looked_for_in_a_short_context(chains: bool) -> None:
    """To make a long context takes a second per GiB."""
    asked = replace(options("auto", "off"), context=load_module.TRIAL_CONTEXT * 2, trial=True)
    engine = load(shipped("draft", "llamacpp"), "llamacpp", asked)
    assert isinstance(engine, ChainEngine) and engine.context == load_module.TRIAL_CONTEXT
    assert search.find_class(engine, 32).widths is not None
    engine = after_trial(engine, chains)
    assert engine.context == asked.context and engine.rollback.trees == (not chains)
    tokens = [token % engine.vocabulary.size for token in range(asked.context - 1)]
    engine.extend(0, tokens)
    assert engine.length(0) == len(tokens)
    assert after_trial(engine, chains) is engine
    engine.close()


def test_flash_attention_for_the_same_bits_is_not_kept_for_trees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(flash, "_measure", lambda *args: [(1.0, 2.0), (1.05, 3.0)])
    asked = replace(options("auto", "off"), flash_attention="auto", trial=True)
    engine = load(shipped("draft", "llamacpp"), "llamacpp", asked)
    assert isinstance(engine, Runtime) and engine.flash and engine.slower == (1.05, 1.5)
    assert search.find_class(engine, 8).slower == engine.slower
    trees = after_trial(engine, chains=False)
    assert isinstance(trees, Runtime) and not trees.flash
    trees.close()


def test_rows_attend_together_where_nobody_needs_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They also do while the cost curve is measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(price, "MIN_SPEED_SHARE", 2.0)
    by_row = []
    original = measure.measure

    def spy(engine: TransformersEngine, *args: Any, **named: Any) -> measure.Measured:
        by_row.append(engine.cache.by_row)
        return original(engine, *args, **named)

    def engine_for(chains: bool, trial: bool) -> Engine:
        asked = replace(options("float32", "off"), chains=chains, trial=trial)
        return load(shipped("draft", "transformers"), "transformers", asked)

    monkeypatch.setattr(measure, "measure", spy)
    served = decision.load_target(engine_for, decision.ExactOptions("auto", 8, 16, SLOTS), ["a model"])
    assert not served.on and by_row == [False]
    served.engine.close()
    found = search.known(["a model", *decision.ExactOptions("auto", 8, 16, SLOTS).searched])
    assert found is not None and min(found.slower) > 0.0 and found.slower != (1.0, 1.0)


def test_flash_attention_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = shipped("draft", "llamacpp")
    plain = EngineOptions(threads=1, context=256)
    seen = []
    for _ in range(2):
        engine = load(path, "llamacpp", plain)
        assert isinstance(engine, Runtime)
        seen.append(engine.flash)
        engine.close()
        monkeypatch.setattr(flash, "_measure", _unexpected)
    assert seen[0] == seen[1]


def _unexpected(*args: object) -> list[flash.Times]:
    raise AssertionError("it was measured before")


def test_flash_attention_is_on_where_it_is_faster_or_gives_the_same_bits() -> None:
    assert flash.prefers((1.0, 2.0), (0.9, 2.0), exact=False)
    assert not flash.prefers((1.0, 2.0), (0.9, 3.0), exact=False)
    assert flash.prefers((1.0, 2.0), (1.05, 3.0), exact=True)
    assert not flash.prefers((1.0, 2.0), (1.0, 4.0), exact=True), "several rows have a bound too"
    assert not flash.prefers((1.0, 2.0), (1.5, 1.0), exact=True)


def test_a_class_is_one_of_multiples() -> None:
    widths = WidthClass(8, 32, 4)
    assert [n for n in range(40) if n in widths] == list(range(8, 33, 4))
    assert [widths.round_up(n) for n in (1, 8, 9, 32)] == [8, 8, 12, 32]


@pytest.mark.parametrize("kind", ["granitemoe", "mixtral"])
def test_experts_of_transformers_have_no_class(kind: str, tmp_path: Path) -> None:
    """The routing of all rows decides how many rows an expert multiplies. Two equal passes do not show that."""
    options = EngineOptions(threads=1, context=128, slots=2, chains=True)
    engine = load(str(make(kind, tmp_path).folder), "transformers", options)
    assert "experts" in decision.inexact(engine)
    found = SearchResult(None, {}, decision.inexact(engine))
    with pytest.raises(ModelError, match="experts"):
        decision.decide(found, ExactOptions("on", 8, 32, 2), engine.name)
    engine.close()
