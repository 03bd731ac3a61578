"""Figures for Prometheus, as its own client reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from duo.errors import BusyError, StoppedError
from lead.api import BackView, Benefit, SlotView, Tally
from lead.http.app import create_app
from lead.http.info.metrics import MAX_BACKS, Metrics
from lead.http.site import Options
from tests.support.http import SUMMARY, ScriptedAnswerer

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def answerer() -> ScriptedAnswerer:
    return ScriptedAnswerer()


@pytest.fixture
def client(answerer: ScriptedAnswerer) -> TestClient:
    figures = Metrics(answerer)
    answerer.observers = [figures]
    return TestClient(create_app(answerer, Options(metrics=True), figures))


def scraped(client: TestClient) -> Mapping[str, float]:
    """Values by series, as `name{label=value}`."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return read(answer.text)


def read(text: str) -> Mapping[str, float]:
    series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            series[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return series


def test_answers_are_counted(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.summary = replace(SUMMARY, queued_seconds=0.25, backs={"mac": Tally(5, 3), "pi": Tally(2, 0)})
    for _ in range(2):
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    with client.stream("POST", "/v1/completions", json={"prompt": "a", "stream": True}) as answer:
        assert b"[DONE]" in answer.read()
    figures = scraped(client)
    expected = {
        "duo_answers_begun_total": 3,
        "duo_requests_total{status=200}": 3,
        "duo_answers_finished_total{reason=stop}": 3,
        "duo_prompt_tokens_total": 3 * 7,
        "duo_prompt_tokens_cached_total": 3 * 4,
        "duo_prompt_seconds_total": 1.5,
        "duo_tokens_predicted_total": 18,
        "duo_tokens_predicted_seconds_total": 6,
        "duo_decode_steps_total": 9,
        "duo_drafted_tokens_total": 15,
        "duo_accepted_tokens_total": 9,
        "duo_back_drafted_tokens_total{back=mac}": 15,
        "duo_back_accepted_tokens_total{back=mac}": 9,
        "duo_back_drafted_tokens_total{back=pi}": 6,
        "duo_back_accepted_tokens_total{back=pi}": 0,
        "duo_time_to_first_token_seconds_count": 3,
        "duo_time_per_output_token_seconds_sum": 1.0,
        "duo_request_duration_seconds_sum": 3 * 2.75,
        "duo_request_duration_seconds_bucket{le=2.5}": 0,
        "duo_request_duration_seconds_bucket{le=5.0}": 3,
        "duo_queue_seconds_sum": 0.75,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_refusals_and_broken_answers_are_counted_by_status(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.refusal = BusyError("too many")
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 503
    answerer.refusal = None
    answerer.script = [("Hel",), StoppedError("the lead is stopping")]
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 503
    figures = scraped(client)
    assert figures["duo_requests_total{status=503}"] == 2
    assert figures["duo_answers_begun_total"] == 1
    assert figures["duo_tokens_predicted_total"] == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/messages"])
def test_what_cannot_be_asked_is_counted_too(client: TestClient, path: str) -> None:
    for body in (b"{", b"{}", b'{"temperature": -1}'):
        assert client.post(path, content=body).status_code == 400
    figures = scraped(client)
    assert figures["duo_requests_total{status=400}"] == 3 and figures["duo_answers_begun_total"] == 0


def test_what_is_done_now_is_read_when_asked_for(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.slot_views = [
        SlotView(0, "reading"),
        SlotView(1, "answering", tokens_per_second=3),
        SlotView(2, "answering", tokens_per_second=4),
        SlotView(3, "idle"),
    ]
    answerer.waiting = 5
    answerer.views = [
        BackView("mac", "draft", "drafting", 4.0, 0, 0),
        BackView("pi", "draft", "waiting", None, 0, 0),
    ]
    figures = scraped(client)
    expected = {
        "duo_model_loaded": 1,
        "duo_slots": 4,
        "duo_slots_busy": 3,
        "duo_requests_processing": 3,
        "duo_requests_deferred": 5,
        "duo_predicted_tokens_per_second": 7,
        "duo_backs_connected": 2,
        "duo_back_round_trip_seconds{back=mac}": 0.004,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert "duo_back_round_trip_seconds{back=pi}" not in figures
    answerer.slot_views, answerer.views, answerer.waiting = [SlotView(0, "idle")], [], 0
    assert scraped(client)["duo_slots_busy"] == scraped(client)["duo_backs_connected"] == 0


def test_names_from_the_network_make_no_more_than_so_many_series(answerer: ScriptedAnswerer) -> None:
    figures = Metrics(answerer)
    for i in range(10 * MAX_BACKS):
        names = {"first": Tally(1, 1), f'back "{i}"\n' + "x" * 1000: Tally(2, 1)}
        figures.finished(i, replace(SUMMARY, backs=names))
    answerer.views = [BackView(f"another {i}", "draft", "drafting", float(i), 0, 0) for i in range(100)]
    found = read(figures.exposition().decode())
    drafted = {name: value for name, value in found.items() if name.startswith("duo_back_drafted_tokens_total")}
    assert len(drafted) == MAX_BACKS + 1
    assert drafted["duo_back_drafted_tokens_total{back=first}"] == 10 * MAX_BACKS
    assert sum(drafted.values()) == 10 * MAX_BACKS * 3
    assert max(map(len, drafted)) < 150
    trips = {name: value for name, value in found.items() if name.startswith("duo_back_round_trip")}
    assert trips == {"duo_back_round_trip_seconds{back=other}": pytest.approx(0.099)}


def test_what_backs_bring(client: TestClient, answerer: ScriptedAnswerer) -> None:
    assert "duo_speedup" not in scraped(client)
    answerer.benefit = Benefit(0.96, 0.02, 18.9, 19.6, "resting", 180)
    figures = scraped(client)
    assert (figures["duo_speedup"], figures["duo_speedup_error"], figures["duo_backs_resting"]) == (0.96, 0.02, 1)
    assert (figures["duo_tokens_per_second_with_backs"], figures["duo_tokens_per_second_alone"]) == (18.9, 19.6)


def test_they_are_shown_while_the_model_loads(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.ready = False
    figures = scraped(client)
    assert figures["duo_model_loaded"] == figures["duo_slots"] == 0


def test_they_can_be_switched_off(answerer: ScriptedAnswerer) -> None:
    answer = TestClient(create_app(answerer, Options(metrics=False))).get("/metrics")
    assert answer.status_code == 501
    assert "--metrics" in answer.json()["error"]["message"]


def test_two_leads_in_one_process_count_apart(answerer: ScriptedAnswerer) -> None:
    one, other = Metrics(answerer), Metrics(answerer)
    one.began(1)
    assert read(one.exposition().decode())["duo_answers_begun_total"] == 1
    assert read(other.exposition().decode())["duo_answers_begun_total"] == 0
