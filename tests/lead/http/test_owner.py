"""Whose request it is, by its key and by the header of a lead of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from lead.http.edge.auth import guarded
from lead.http.owner import HEADER, owner_of


def owner(keys: Sequence[str], headers: Mapping[str, str]) -> str:
    async def told(request: Request) -> PlainTextResponse:
        return PlainTextResponse(owner_of(request.scope))

    app = guarded(Starlette(routes=[Route("/v1/models", told)]), keys, 100)
    answer = TestClient(app).get("/v1/models", headers=headers)
    assert answer.status_code == 200
    return answer.text


def test_each_key_is_an_owner_however_it_is_sent() -> None:
    keys = ["one", "two"]
    one = owner(keys, {"Authorization": "Bearer one"})
    assert one == owner(keys, {"x-api-key": "one"})
    assert one != owner(keys, {"Authorization": "Bearer two"})
    assert "one" not in one


def test_the_header_divides_a_key_and_reaches_no_other() -> None:
    keys = ["one", "two"]
    names = {
        owner(keys, {"Authorization": f"Bearer {key}", HEADER: part}) for key in keys for part in ("", "one", "two")
    }
    assert len(names) == 6


def test_without_keys_there_is_one_owner() -> None:
    assert owner([], {}) == owner([], {"Authorization": "Bearer anything"})
