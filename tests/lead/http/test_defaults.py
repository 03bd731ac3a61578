"""Request, flag, model, lead: who says how an answer is sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from duo.sampling.params import SamplingParams
from lead.flags import parser, sampling_flags
from lead.http.app import create_app
from lead.http.defaults import NAMES, SamplingFlags, sampling_defaults
from lead.http.site import Options
from tests.support.api import CHAT, HI, TEXT
from tests.support.http import ScriptedAnswerer

MODEL = {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
FLAGS = SamplingFlags({"temperature": 0.3, "min_p": 0.05}, seed=7, max_tokens=50)


def test_flag_before_model_before_lead() -> None:
    plain = sampling_defaults(SamplingFlags(), {})
    assert plain.params == SamplingParams(0.8)
    assert set(plain.origins.values()) == {"lead"}
    assert set(plain.origins) == {*NAMES, "seed", "max_tokens"}
    found = sampling_defaults(FLAGS, MODEL)
    assert found.params == SamplingParams(0.3, top_k=20, top_p=0.95, min_p=0.05)
    origins = {"temperature": "flag", "top_k": "model", "top_p": "model", "min_p": "flag"}
    assert {name: found.origins[name] for name in origins} == origins
    assert (found.origins["seed"], found.origins["repetition_penalty"]) == ("flag", "lead")
    assert found.greedy().params == replace(found.params, temperature=0.0)


def sampled(path: str, options: Options, model: dict[str, float], **fields: Any) -> Any:
    answerer = ScriptedAnswerer()
    answerer.sampling = model
    body = {"messages": HI, **fields} if path != TEXT else {"prompt": "Hi", **fields}
    response = TestClient(create_app(answerer, options)).post(path, json=body)
    assert response.status_code == 200, response.text
    return answerer.next_asked().question


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_request_goes_before_all(path: str) -> None:
    options = Options(sampling=FLAGS)
    question = sampled(path, options, MODEL)
    assert question.sampling == SamplingParams(0.3, top_k=20, top_p=0.95, min_p=0.05, seed=7)
    assert question.max_tokens == 50
    question = sampled(path, options, MODEL, temperature=1, top_k=0, top_p=1, min_p=0, seed=3, max_tokens=9)
    assert (question.sampling, question.max_tokens) == (SamplingParams(1.0, seed=3), 9)


def test_what_switches_a_default_off() -> None:
    assert sampled(CHAT, Options(), MODEL, top_k=-1).sampling.top_k == 0
    assert sampled(CHAT, Options(), MODEL, top_k=None).sampling.top_k == 20
    question = sampled(CHAT, Options(sampling=FLAGS), MODEL, seed=-1, max_tokens=-1)
    assert question.sampling.seed != 7
    assert question.max_tokens == 50, "-n is the most, as in llama-server"
    assert sampled(CHAT, Options(), MODEL, repeat_penalty=1.2).sampling.repetition_penalty == 1.2


def test_llama_duos_messages_stay_greedy() -> None:
    assert sampled("/messages", Options(), MODEL).sampling.temperature == 0.0
    assert sampled("/messages", Options(), MODEL, seed=1).sampling.temperature == 0.6
    assert sampled("/messages", Options(), MODEL, temperature=0.9).sampling.temperature == 0.9


def test_props_say_which_and_whence() -> None:
    answerer = ScriptedAnswerer()
    answerer.sampling = MODEL
    props = TestClient(create_app(answerer, Options(sampling=FLAGS))).get("/props").json()
    params = props["default_generation_settings"]["params"]
    assert (params["temperature"], params["top_k"], params["top_p"], params["min_p"]) == (0.3, 20, 0.95, 0.05)
    assert (params["repeat_penalty"], params["seed"], params["n_predict"]) == (1.0, 7, 50)
    assert props["sampling_from"] == {
        "temperature": "flag",
        "top_k": "model",
        "top_p": "model",
        "min_p": "flag",
        "repeat_penalty": "lead",
        "presence_penalty": "lead",
        "frequency_penalty": "lead",
        "seed": "flag",
        "n_predict": "flag",
    }
    plain = TestClient(create_app(ScriptedAnswerer())).get("/props").json()["default_generation_settings"]["params"]
    assert (plain["temperature"], plain["seed"], plain["n_predict"]) == (0.8, -1, -1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", SamplingFlags()),
        ("--temp 0 --top-k 40", SamplingFlags({"temperature": 0.0, "top_k": 40})),
        ("--temperature 0.5 --top-k -1 --top-p 0.9", SamplingFlags({"temperature": 0.5, "top_k": 0, "top_p": 0.9})),
        ("--min-p 0.1 --repeat-penalty 1.1", SamplingFlags({"min_p": 0.1, "repetition_penalty": 1.1})),
        (
            "--presence-penalty 1.5 --frequency-penalty -1",
            SamplingFlags({"presence_penalty": 1.5, "frequency_penalty": -1.0}),
        ),
        ("-s 42 -n 128", SamplingFlags(seed=42, max_tokens=128)),
        ("--seed -1 --n-predict -1", SamplingFlags()),
        ("--predict 5", SamplingFlags(max_tokens=5)),
    ],
)
def test_the_flags(words: str, expected: SamplingFlags) -> None:
    assert sampling_flags(parser().parse_args(words.split())) == expected


@pytest.mark.parametrize(
    "words",
    ["--temp -1", "--temp nan", "--temp warm", "--top-k 1.5", "--top-p 2", "--min-p -0.1", "--repeat-penalty 0",
     "--seed x", f"--seed {1 << 64}", "-n 0", "-n -2"],
)  # fmt: skip
def test_flags_that_mean_nothing(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert words.split()[0] in error and error.count("\n") == 1
