"""What programs look at: health, models, backs."""

from __future__ import annotations

from datetime import UTC, datetime

import requests
from anthropic import Anthropic
from openai import OpenAI

from lead.api import BackView, Benefit
from tests.support.api import HI, error_of, post
from tests.support.http import PATIENCE, ScriptedAnswerer


def test_health_and_everything_else_while_loading(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.ready = False
    health = requests.get(f"{url}/health", timeout=PATIENCE)
    assert (health.status_code, health.json()) == (503, {"status": "loading model"})
    for response in (
        requests.get(f"{url}/v1/models", timeout=PATIENCE),
        requests.get(f"{url}/backs", timeout=PATIENCE),
        post(url, messages=HI),
        post(url, "/messages", messages=HI),
    ):
        error = error_of(response, 503)
        assert error["code"] == "model_loading" and "loading" in error["message"]
        assert response.headers["retry-after"] == "1"
    answerer.ready = True
    health = requests.get(f"{url}/health", timeout=PATIENCE)
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


def test_models(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    listed = client.models.list()
    assert listed.object == "list"
    (model,) = listed.data
    assert (model.id, model.object, model.created, model.owned_by) == ("fake-13m", "model", 1_700_000_000, "duo")


def test_models_in_anthropics_form(claude: Anthropic, url: str, answerer: ScriptedAnswerer) -> None:
    listed = claude.models.list()
    (model,) = listed
    assert (model.id, model.type, model.display_name) == ("fake-13m", "model", "fake-13m")
    assert model.created_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (listed.has_more, listed.first_id, listed.last_id) == (False, "fake-13m", "fake-13m")
    assert claude.models.retrieve("fake-13m") == model
    # Clients of OpenAI's form find theirs all the same, and no others where nobody asks.
    version = {"anthropic-version": "2023-06-01"}
    both = requests.get(f"{url}/v1/models", headers=version, timeout=PATIENCE).json()
    plain = requests.get(f"{url}/v1/models", timeout=PATIENCE).json()
    assert plain.keys() == {"object", "data"} < both.keys() and plain["data"][0].items() <= both["data"][0].items()


def test_backs(url: str, answerer: ScriptedAnswerer) -> None:
    assert requests.get(f"{url}/backs", timeout=PATIENCE).json() == {"data": [], "speedup": None}
    answerer.views = [BackView("attic", "tiny-1m", "drafting", 1.25, 40, 31), BackView("é", "m", "waiting", None, 0, 0)]
    assert requests.get(f"{url}/backs", timeout=PATIENCE).json() == {
        "data": [
            {
                "name": "attic",
                "model": "tiny-1m",
                "state": "drafting",
                "round_trip_ms": 1.25,
                "drafted": 40,
                "accepted": 31,
            },
            {"name": "é", "model": "m", "state": "waiting", "round_trip_ms": None, "drafted": 0, "accepted": 0},
        ],
        "speedup": None,
    }


def test_what_the_backs_bring(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.benefit = Benefit(0.97, 0.04, 19.0, 19.6, "resting", 180)
    assert requests.get(f"{url}/backs", timeout=PATIENCE).json()["speedup"] == {
        "times": 0.97,
        "error": 0.04,
        "with_backs": 19.0,
        "alone": 19.6,
        "state": "resting",
        "trial_in_tokens": 180,
        "says": "resting: 19.6 tokens/s without backs, 19.0 with them; next trial in 180 tokens",
    }


def test_the_model_by_its_name_and_heads(url: str) -> None:
    assert requests.get(f"{url}/v1/models/fake-13m", timeout=10).json()["id"] == "fake-13m"
    unknown = requests.get(f"{url}/v1/models/other/one", timeout=10)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert requests.head(f"{url}/health", timeout=10).status_code == 200
    assert requests.head(f"{url}/", timeout=10).status_code == 200
