"""What is remembered for one API key is not there for another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lead.http.app import create_app
from lead.http.edge.auth import guarded
from lead.http.site import BODY_LIMIT
from tests.support.http import ScriptedAnswerer, vocabulary

PATH = "/v1/responses"
ONE, TWO = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))


@pytest.fixture
def keyed() -> ScriptedAnswerer:
    vocabulary()  # the first time takes seconds
    return ScriptedAnswerer()


@pytest.fixture
def both(keyed: ScriptedAnswerer) -> Iterator[TestClient]:
    with TestClient(guarded(create_app(keyed), ["one", "two"], BODY_LIMIT)) as client:
        yield client


def test_the_second_key_cannot_reach_what_the_first_one_was_told(both: TestClient, keyed: ScriptedAnswerer) -> None:
    first = both.post(PATH, json={"input": "a secret"}, headers=ONE).json()
    keyed.next_asked()
    after: dict[str, Any] = {"input": "What did I say?", "previous_response_id": first["id"]}
    for path in (PATH, f"{PATH}/input_tokens"):
        refused = both.post(path, json=after, headers=TWO)
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
        assert "secret" not in refused.text and "Hello" not in refused.text
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert both.post(PATH, json={"input": [reference]}, headers=TWO).status_code == 404
    assert both.get(f"{PATH}/{first['id']}", headers=TWO).status_code == 404
    assert both.delete(f"{PATH}/{first['id']}", headers=TWO).status_code == 404
    assert keyed.asked.empty()


def test_the_first_key_still_can(both: TestClient, keyed: ScriptedAnswerer) -> None:
    first = both.post(PATH, json={"input": "a secret"}, headers=ONE).json()
    assert both.delete(f"{PATH}/{first['id']}", headers=TWO).status_code == 404
    # A key may come in either header.
    after = {"input": "And?", "previous_response_id": first["id"]}
    assert both.post(PATH, json=after, headers={"X-Api-Key": "one"}).status_code == 200
    keyed.next_asked()
    assert [message["content"] for message in keyed.next_asked().messages] == ["a secret", "Hello, world!", "And?"]
    assert both.get(f"{PATH}/{first['id']}", headers=ONE).json() == first
    assert both.delete(f"{PATH}/{first['id']}", headers=ONE).status_code == 200
