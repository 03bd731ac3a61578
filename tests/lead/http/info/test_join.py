"""GET /join: what a page shows to a person who wants to add a machine."""

from __future__ import annotations

import pytest
import requests
from fastapi.testclient import TestClient

from lead.http.app import create_app
from lead.http.site import Options
from lead.security.joining import Commands, Joining
from tests.support.http import PATIENCE, ScriptedAnswerer

COMMANDS = Joining(
    Commands("python -m back --token t", "python chat.py --api-key k"),
    Commands("python -m back --token TOKEN", "python chat.py --api-key KEY"),
)
WHOLE = {"back": "python -m back --token t", "chat": "python chat.py --api-key k"}
HIDDEN = {"back": "python -m back --token TOKEN", "chat": "python chat.py --api-key KEY"}


def client(address: str) -> TestClient:
    """A client at this address, of a lead at 192.168.1.20."""
    app = create_app(ScriptedAnswerer(), Options(joining=COMMANDS))
    return TestClient(app, base_url="http://192.168.1.20", client=(address, 4000))


def test_nobody_else_can_reach_the_lead(url: str) -> None:
    assert requests.get(f"{url}/join", timeout=PATIENCE).json() == {"back": None, "chat": None}


def test_secrets_stay_on_the_machine_that_made_them() -> None:
    assert client("192.168.1.20").get("/join").json() == WHOLE
    assert client("192.168.1.21").get("/join").json() == HIDDEN


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_a_proxy_on_this_machine_speaks_for_others(header: str) -> None:
    assert client("192.168.1.20").get("/join", headers={header: "192.168.1.20"}).json() == HIDDEN


def test_a_lead_that_loads_says_it_too() -> None:
    answerer = ScriptedAnswerer()
    answerer.ready = False
    app = create_app(answerer, Options(joining=COMMANDS))
    assert TestClient(app).get("/join").json() == HIDDEN
