"""Sampling parameters and limits: every field arrives, and null means the default."""

from __future__ import annotations

from typing import Any

from duo.sampling.params import SamplingParams
from lead.api import Question
from lead.http.openai.chat import ChatRequest
from tests.support.api import HI, asked, post
from tests.support.http import ScriptedAnswerer, vocabulary


def test_every_parameter_arrives(url: str, answerer: ScriptedAnswerer) -> None:
    question = asked(
        url,
        answerer,
        temperature=1,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=(1 << 64) - 1,
        max_tokens=99,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        repetition_penalty=1.1,
        logit_bias={"17": -100, "3": 1.5},
        ignore_eos=True,
        stop=["\n", "é"],
        stop_token_ids=[7, 9],
        logprobs=True,
        top_logprobs=5,
    )
    assert question == Question(
        prompt=vocabulary().chat(HI),
        sampling=SamplingParams(1.0, 40, 0.9, 0.05, 1.1, 0.1, -0.2, {17: -100.0, 3: 1.5}, (1 << 64) - 1),
        max_tokens=99,
        ignore_eos=True,
        stop=("\n", "é"),
        stop_tokens=(7, 9),
        top_logprobs=5,
        thinking_marks=question.thinking_marks,
        owner=question.owner,
    )


def test_defaults_and_null(url: str, answerer: ScriptedAnswerer) -> None:
    nulls = dict.fromkeys((*ChatRequest.model_fields.keys() - {"messages"}, "repeat_penalty"))
    givens: list[dict[str, Any]] = [{}, nulls, {"top_k": -1, "max_tokens": -1}]
    for fields in givens:
        question = asked(url, answerer, **fields)
        expected = SamplingParams(temperature=0.8, seed=question.sampling.seed)
        assert question == Question(
            prompt=vocabulary().chat(HI), sampling=expected,
            thinking_marks=question.thinking_marks, owner=question.owner,
        )  # fmt: skip


def test_without_a_seed_each_answer_has_its_own(url: str, answerer: ScriptedAnswerer) -> None:
    fields: list[dict[str, Any]] = [{}, {}, {"seed": -1}, {"seed": -1}, {"seed": None}]
    seeds = {asked(url, answerer, **given).sampling.seed for given in fields}
    assert len(seeds) == len(fields) and all(0 <= seed < 1 << 63 for seed in seeds)


def test_other_spellings(url: str, answerer: ScriptedAnswerer) -> None:
    assert asked(url, answerer, repeat_penalty=1.3).sampling.repetition_penalty == 1.3
    assert asked(url, answerer, repetition_penalty=None, repeat_penalty=1.3).sampling.repetition_penalty == 1.3
    assert asked(url, answerer, top_p=0, typical_p=1.0, dry_multiplier=0.0, mirostat=0).sampling.top_p == 0
    assert asked(url, answerer, max_completion_tokens=5).max_tokens == 5
    assert asked(url, answerer, max_completion_tokens=5, max_tokens=9).max_tokens == 5
    assert asked(url, answerer, n_predict=3, max_completion_tokens=5, max_tokens=9).max_tokens == 3
    assert asked(url, answerer, n_predict=None, max_tokens=9).max_tokens == 9


def test_numbers_of_clients_that_know_no_integers(url: str, answerer: ScriptedAnswerer) -> None:
    question = asked(url, answerer, max_tokens=9.0, top_k=40.0, seed=7.0, n=1.0, logprobs=True, top_logprobs=2.0)
    assert (question.max_tokens, question.sampling.top_k, question.sampling.seed) == (9, 40, 7)
    assert question.top_logprobs == 2
    for wrong in (2.5, True, "3", 1e300):
        assert post(url, messages=HI, max_tokens=wrong).status_code == 400
    schema = ChatRequest.model_json_schema()["properties"]["max_tokens"]["anyOf"][0]
    assert schema == {"type": "integer", "minimum": -1, "exclusiveMaximum": 1 << 31}


def test_fields_that_change_nothing_are_taken(url: str, answerer: ScriptedAnswerer) -> None:
    asked(
        url,
        answerer,
        model={"not": "even a string"},
        user="ann",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        n=1,
        stop="",
        logprobs=False,
        top_logprobs=0,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        modalities=["text"],
        something_unheard_of=[1, 2, 3],
    )
