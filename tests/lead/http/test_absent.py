"""Endpoints that are not there say so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import requests
from openai import NotFoundError, OpenAI

from lead.http.absent import ABSENT
from lead.http.endpoints import ENDPOINTS
from lead.http.errors import ANTHROPIC, style_of
from tests.support.api import error_of, post
from tests.support.http import PATIENCE
from tests.support.models_front import scene


def asked_of(path: str) -> str:
    """A path that this route takes."""
    return path.replace("{response_id}", "resp_1").replace("{rest:path}", "a/b")


@pytest.mark.parametrize("path", sorted(ABSENT))
def test_each_of_them_answers_404_with_a_reason(url: str, path: str) -> None:
    asked = asked_of(path)
    response = post(url, asked, input="a")
    error = response.json()["error"]
    assert response.status_code == 404
    if style_of(path) is ANTHROPIC:
        assert error["type"] == "not_found_error"
    else:
        assert error_of(response, 404)["code"] == "not_found"
    assert asked in error["message"] and error["message"].endswith(ABSENT[path])


def test_whatever_the_method(url: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        response = requests.request(method, f"{url}/v1/embeddings", timeout=PATIENCE)
        assert error_of(response, 404)["message"].startswith(f"{method} /v1/embeddings")


def test_a_lead_of_several_models_gives_the_same_reasons(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, "models: {alpha: {}, beta: {}}") as it:
            for path, why in ABSENT.items():
                answer = await it.client.post(asked_of(path), json={"model": "alpha"})
                assert answer.status_code == 404, path
                assert answer.json()["error"]["message"] == f"POST {asked_of(path)}: {why}"
            assert not it.workers, "nothing is loaded for them"

    asyncio.run(run())


def test_none_of_them_is_there() -> None:
    there = {path for endpoint in ENDPOINTS for path in endpoint.paths}
    assert not there & ABSENT.keys()


def test_any_other_path_is_404(url: str) -> None:
    assert error_of(post(url, "/v1/nothing"), 404)["message"] == "POST /v1/nothing: not found"


def test_with_the_openai_client(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="no embeddings"):
        client.embeddings.create(model="any", input="a")
