"""All answers of a request or none, and who hears of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import requests

from duo.errors import BusyError, DuoError
from lead.api import Answer, Question, Summary
from lead.http.info.metrics import Metrics
from lead.http.site import Options
from tests.support.api import CHAT, HI, TEXT, post
from tests.support.http import PATIENCE, SUMMARY, ScriptedAnswerer, serving


class Noted(Metrics):
    def __init__(self, answerer: ScriptedAnswerer) -> None:
        super().__init__(answerer)
        self.heard: list[Any] = []

    def began(self, answer: int) -> None:
        self.heard.append("began")

    def first_text(self, answer: int, seconds: float) -> None:
        assert seconds >= 0
        self.heard.append("first")

    def finished(self, answer: int, summary: Summary) -> None:
        self.heard.append(summary)

    def refused(self, status: int) -> None:
        self.heard.append(status)


class ThirdIsOneTooMany(ScriptedAnswerer):
    def ask(self, question: Question) -> Answer:
        if self.asked.qsize() == 2:
            raise BusyError("2 wait already")
        return super().ask(question)


def test_the_observer_and_the_alias() -> None:
    answerer = ThirdIsOneTooMany()
    noted = Noted(answerer)
    answerer.observers = [noted]

    def heard(then: Sequence[Any]) -> None:
        assert noted.heard == list(then)
        noted.heard.clear()

    with serving(answerer, Options(alias="gpt"), noted) as url:
        assert requests.get(f"{url}/models", timeout=PATIENCE).json()["data"][0]["id"] == "gpt"
        assert requests.get(f"{url}/v1/health", timeout=PATIENCE).status_code == 200
        assert post(url, CHAT, messages=HI).json()["model"] == "gpt"
        heard(["began", "first", SUMMARY])
        answerer.script = [DuoError("no more")]
        assert post(url, TEXT, prompt="a").status_code == 500
        heard(["began", 500])
        answerer.next_asked(), answerer.next_asked()
        # All or none.
        assert post(url, CHAT, messages=HI, n=3).status_code == 503
        assert all(answerer.next_asked().cancelled.is_set() for _ in range(2))
        heard(["began", "began", 499, 499, 503])


def test_more_answers_than_there_can_be_are_refused_for_good(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.most = 3
    response = requests.post(f"{url}/v1/chat/completions", json={"messages": HI, "n": 4}, timeout=10)
    assert response.status_code == 400
    assert "at once" in response.json()["error"]["message"]
