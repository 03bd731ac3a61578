"""llama-server's actions on slots."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from duo.errors import BusyError
from lead.api import SlotView
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from lead.http.site import BODY_LIMIT, Options
from tests.support.http import ScriptedAnswerer


@pytest.fixture
def answerer() -> ScriptedAnswerer:
    answerer = ScriptedAnswerer()
    answerer.slot_views = [SlotView(0, "idle"), SlotView(1, "idle")]
    return answerer


@pytest.fixture
def client(answerer: ScriptedAnswerer) -> Iterator[TestClient]:
    with TestClient(guarded(create_app(answerer, Options(slot_files=True)), [], BODY_LIMIT)) as client:
        yield client


def test_actions(client: TestClient, answerer: ScriptedAnswerer) -> None:
    saved = client.post("/slots/1?action=save", json={"filename": "x.bin"}).json()
    figures = {"n_saved": 40, "n_written": 5000, "timings": {"save_ms": 250.0}}
    assert saved == {"id_slot": 1, "filename": "x.bin", **figures}
    restored = client.post("/slots/0?action=restore", json={"filename": "x.bin"}).json()
    figures = {"n_restored": 40, "n_read": 5000, "timings": {"restore_ms": 500.0}}
    assert restored == {"id_slot": 0, "filename": "x.bin", **figures}
    assert client.post("/slots/0?action=erase").json() == {"id_slot": 0, "n_erased": 40}
    assert answerer.actions == ["save 1 x.bin", "restore 0 x.bin", "erase 0"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/slots/0?action=burn", {}, "action"),
        ("/slots/0", {}, "action"),
        ("/slots/2?action=erase", {}, "id"),
        ("/slots/-1?action=erase", {}, "id"),
        ("/slots/x?action=erase", {}, "id"),
        ("/slots/99999999999999999999?action=erase", {}, "id"),
        ("/slots/0?action=save", {}, "filename"),
        ("/slots/0?action=save", {"filename": 5}, "filename"),
        ("/slots/0?action=restore", {"filename": None}, "filename"),
    ],
)
def test_refusals(client: TestClient, answerer: ScriptedAnswerer, path: str, body: object, param: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert answerer.actions == []


def test_a_busy_slot(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.refusal = BusyError("slot 0 is answering: try again later")
    answer = client.post("/slots/0?action=erase")
    assert answer.status_code == 503 and answer.headers["Retry-After"]


def test_without_a_folder(answerer: ScriptedAnswerer) -> None:
    with TestClient(guarded(create_app(answerer), [], BODY_LIMIT)) as client:
        answer = client.post("/slots/0?action=erase")
        assert answer.status_code == 501 and "--slot-save-path" in answer.json()["error"]["message"]
