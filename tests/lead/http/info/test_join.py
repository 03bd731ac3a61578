"""GET /join: what a page shows to a person who wants to add a machine."""

from __future__ import annotations

import requests
from fastapi.testclient import TestClient

from lead.flags import parser
from lead.http.app import create_app
from lead.http.site import Options
from lead.security.credentials import Access
from lead.security.joining import joining
from tests.support.http import PATIENCE, ScriptedAnswerer

MADE = Access(("k",), ("t",), frozenset("kt"))
COMMANDS = joining(parser().parse_args(["--host", "192.168.1.20"]), MADE, 5555, 5556, "/x/lead/__main__.py")
SAID = {
    "back": "python -m back --lead 192.168.1.20:5556 --token TOKEN",
    "chat": "python chat.py http://192.168.1.20:5555 --api-key KEY",
}


def test_nobody_else_can_reach_the_lead(url: str) -> None:
    assert requests.get(f"{url}/join", timeout=PATIENCE).json() == {"back": None, "chat": None}


def test_no_secret_is_sent_not_even_to_the_machine_that_made_it() -> None:
    """A proxy on this machine, which need not say so, would hand it on to anybody."""
    app = create_app(ScriptedAnswerer(), Options(joining=COMMANDS))
    here = TestClient(app, base_url="http://192.168.1.20", client=("192.168.1.20", 4000))
    assert here.get("/join").json() == SAID


def test_a_lead_that_loads_says_it_too() -> None:
    answerer = ScriptedAnswerer()
    answerer.ready = False
    app = create_app(answerer, Options(joining=COMMANDS))
    assert TestClient(app).get("/join").json() == SAID
