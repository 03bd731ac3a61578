"""Figures of an answer."""

from __future__ import annotations

import dataclasses

from tests.support.api import HI, post
from tests.support.http import SUMMARY, ScriptedAnswerer


def test_rates_of_no_time_are_zero(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = []
    answerer.summary = dataclasses.replace(
        SUMMARY, cached_tokens=11, completion_tokens=0, prompt_seconds=0.0, decode_seconds=0.0, drafted=0, accepted=0
    )
    body = post(url, messages=HI).json()
    assert body["choices"][0]["message"]["content"] == ""
    assert body["timings"].pop("cache_n") == 11
    assert body["timings"].pop("speedup") == {"times": 2.1, "error": 0.1}
    assert set(body["timings"].values()) == {0}
