"""llama_duo's API."""

from __future__ import annotations

from tests.support.api import HI, asked, error_of, post
from tests.support.http import ScriptedAnswerer, conversation, vocabulary


def test_messages(url: str, answerer: ScriptedAnswerer) -> None:
    response = post(url, "/messages", system="Be brief.", max_tokens=2048, messages=HI)
    assert (response.status_code, response.json()) == (200, {"content": {"text": "Hello, world!"}})
    question = answerer.next_asked().question
    assert conversation(question.prompt)["messages"] == [{"role": "system", "content": "Be brief."}, *HI]
    assert (question.sampling.temperature, question.max_tokens) == (0.0, 2048)


def test_messages_samples_only_when_asked_to(url: str, answerer: ScriptedAnswerer) -> None:
    assert asked(url, answerer, "/messages").sampling.temperature == 0.0
    assert asked(url, answerer, "/messages", temperature=0.5).sampling.temperature == 0.5
    sampling = asked(url, answerer, "/messages", seed=7).sampling
    assert (sampling.temperature, sampling.seed) == (0.8, 7)
    assert asked(url, answerer, "/messages", system=None).prompt == vocabulary().chat(HI)


def test_messages_errors(url: str, answerer: ScriptedAnswerer) -> None:
    assert error_of(post(url, "/messages", messages=[]), 400)["param"] == "messages"
    assert error_of(post(url, "/messages", messages=HI, system=5), 400)["param"] == "system"
    assert error_of(post(url, "/messages", messages=HI, stream=True), 400)["param"] == "stream"
    assert error_of(post(url, "/messages", messages=HI, stop_sequences=["a"]), 400)["param"] == "stop_sequences"
