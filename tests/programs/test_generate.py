"""Greedy text of both engines is that of transformers' own `generate` on the same weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.harness.decoding import chat_prompt
from bench.harness.models import RUNTIMES, Runtime, shipped
from bench.harness.near_ties import walk
from duo import models
from duo.engines import EngineOptions, load
from duo.models.corpus import questions
from duo.sampling.params import SamplingParams

pytestmark = pytest.mark.slow

TOKENS = 96
ROUNDING = {"transformers": 1e-3, "llamacpp": 0.3}
"""How far the engines' logits may be from those of transformers in float32. llama.cpp rounds activations to bf16."""


@pytest.fixture(scope="module")
def model() -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(models.TARGET, dtype=torch.float32)
    return loaded.eval()


@functools.cache
def generated(model: Any, prompt: tuple[int, ...]) -> list[int]:
    """The tokens after the prompt."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS)
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_greedy_text_is_that_of_generate(runtime: Runtime, model: Any) -> None:
    """Token for token, or up to a near tie: there the two candidates are as good as equal in float32 logits."""
    engine = load(shipped("target", runtime), runtime, EngineOptions(threads=1))
    ties = 0
    asked = questions(8, seed=5)
    for question in asked:
        prompt = chat_prompt(engine, question.text)
        with torch.inference_mode():
            expected = generated(model, tuple(prompt))
            ours = list(walk(engine, prompt, SamplingParams(temperature=0), len(expected), ignore_eos=False).tokens)
            if ours == expected:
                continue
            at = next(i for i, (a, b) in enumerate(zip(ours, expected, strict=False)) if a != b)
            logits = model(torch.tensor([prompt + expected[:at]])).logits[0, -1]
        gap = float(logits[expected[at]] - logits[ours[at]])
        assert 0 <= gap < ROUNDING[runtime], f"{question.text!r} differs at token {at}: gap {gap}"
        ties += 1
    assert ties <= len(asked) // 4
    engine.close()
