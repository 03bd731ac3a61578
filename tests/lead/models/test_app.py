"""Several models behind one HTTP port: who is asked, what lists say, and what is handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lead.api import BackView, Benefit
from lead.security.joining import Commands
from tests.support.http import AnswerGate
from tests.support.models_front import Scene, events, scene, text_of

TWO = "models: {alpha: {aliases: [a, gpt-4o], name: The first}, beta: {}, gamma: {unlisted: true}}\nmax_loaded: 2"
ONE = "models: {alpha: {}}"


def play(tmp_path: Path, text: str, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with scene(tmp_path, text) as it:
            await act(it)

    asyncio.run(run())


def test_the_name_says_who_is_asked(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        it.answerers["alpha"].script, it.answerers["beta"].script = [("I am alpha",)], [("I am beta",)]
        await it.load("alpha")
        await it.load("beta")
        for name, model in (("alpha", "alpha"), ("gpt-4o", "alpha"), ("beta", "beta")):
            answer = (await it.chat(name)).json()
            assert answer["choices"][0]["message"]["content"] == f"I am {model}"
            assert answer["model"] == model
        tokens = await it.client.post("/tokenize?model=beta", json={"content": "a"})
        assert tokens.status_code == 200 and tokens.json()["tokens"]

    play(tmp_path, TWO, act)


def test_names_that_are_wrong(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        unknown = await it.chat("delta")
        assert unknown.status_code == 404
        error = unknown.json()["error"]
        assert error["code"] == "model_not_found"
        assert "'delta'" in error["message"] and "alpha, beta" in error["message"]
        missing = await it.chat(None)
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "model")
        number = await it.client.post("/v1/chat/completions", json={"model": 5})
        assert (number.status_code, number.json()["error"]["param"]) == (400, "model")
        assert not it.workers, "nothing is loaded for a wrong name"
        for content in (b"{", b"[]"):
            assert (await it.client.post("/v1/chat/completions", content=content)).status_code == 400
        assert (await it.client.post("/v1/models/load", json={})).status_code == 405, "it is GET for a model's name"
        assert (await it.client.get("/v1/models/delta")).status_code == 404
        stranger = await it.client.post("/v1/chat/completions", headers={"Authorization": "Bearer x"}, json={})
        assert stranger.status_code == 401

    play(tmp_path, TWO, act)


@pytest.mark.parametrize("name", ["alpha", "gpt-5", None])
def test_with_one_model_any_name_will_do(tmp_path: Path, name: str | None) -> None:
    async def act(it: Scene) -> None:
        await it.load("alpha")
        assert (await it.chat(name)).json()["model"] == "alpha"

    play(tmp_path, ONE, act)


def test_lists_in_anthropics_form(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        headers = {"anthropic-version": "2023-06-01"}
        page = (await it.client.get("/v1/models", headers=headers)).json()
        assert (page["first_id"], page["last_id"], page["has_more"]) == ("alpha", "beta", False)
        assert [(one["type"], one["display_name"]) for one in page["data"]] == [
            ("model", "The first"),
            ("model", "beta"),
        ]
        assert (await it.client.get("/v1/models/alpha", headers=headers)).json() == page["data"][0]
        plain = (await it.client.get("/v1/models")).json()
        assert plain.keys() == {"object", "data"} and "type" not in plain["data"][0]

    play(tmp_path, TWO, act)


def test_lists_say_what_is_loaded(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        async def states() -> dict[str, object]:
            listed = (await it.client.get("/v1/models")).json()["data"]
            return {model["id"]: model["status"] for model in listed}

        assert await states() == {"alpha": {"value": "unloaded"}, "beta": {"value": "unloaded"}}
        assert (await it.client.post("/models/load", json={"model": "a"})).json() == {"success": True}
        worker = await it.worker()
        assert await states() == {"alpha": {"value": "loading"}, "beta": {"value": "unloaded"}}
        worker.loaded()
        await it.until(lambda: "alpha" in it.pool.loaded)
        assert await states() == {"alpha": {"value": "loaded"}, "beta": {"value": "unloaded"}}
        (await it.load("beta")).dies()
        await it.until(lambda: "beta" not in it.pool.loaded)
        assert (await states())["beta"] == {
            "value": "unloaded", "failed": True, "reason": "its process was ended by SIGKILL"
        }  # fmt: skip
        assert (await it.client.post("/models/unload", json={"model": "alpha"})).status_code == 200
        await it.until(lambda: it.pool.entries["alpha"].status == "unloaded")
        assert worker.stopped.is_set()
        one = (await it.client.get("/v1/models/gpt-4o")).json()
        assert (one["id"], one["aliases"], one["name"]) == ("alpha", ["a", "gpt-4o"], "The first")
        assert (await it.client.post("/models/load", json={})).status_code == 400
        assert (await it.client.post("/models/load", json={"model": "x"})).status_code == 404
        assert (await it.client.get("/health")).json() == {"status": "ok"}

    play(tmp_path, TWO, act)


def test_a_look_loads_nothing(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        assert (await it.client.get("/slots")).json() == []
        assert (await it.client.get("/props")).status_code == 503
        assert (await it.client.get("/props?model=beta")).status_code == 503
        assert (await it.client.get("/props?model=delta")).status_code == 404
        await it.load("alpha")
        await it.load("beta")
        await it.chat("alpha")
        assert (await it.client.get("/props")).json()["model_alias"] == "alpha", "the one that was used last"
        assert (await it.client.get("/props?model=beta")).json()["model_alias"] == "beta"
        assert (await it.client.get("/slots")).json()[0]["state"] == "idle"
        assert len(it.workers) == 2

    play(tmp_path, TWO, act)


def test_each_model_remembers_its_own_responses(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        await it.load("beta")
        made = (await it.client.post("/v1/responses", json={"model": "beta", "input": "Hi"})).json()
        path = f"/v1/responses/{made['id']}"
        assert (await it.client.get(path)).json()["output"] == made["output"]
        await it.load("alpha")
        assert (await it.chat("alpha")).status_code == 200
        assert (await it.client.get(path)).status_code == 404, "the one that was used last is asked"
        assert (await it.client.delete(f"{path}?model=gamma")).status_code == 503
        assert len(it.workers) == 2, "to forget loads nothing"
        assert (await it.client.delete(f"{path}?model=beta")).json()["deleted"] is True
        assert (await it.client.get(f"{path}?model=beta")).status_code == 404

    play(tmp_path, TWO, act)


def test_by_hand_a_name_must_be_right_even_of_one_model(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        for action in ("load", "unload"):
            for body, status in (({}, 400), ({"model": ""}, 400), ({"model": "x"}, 404), ({"model": "alpha"}, 200)):
                assert (await it.client.post(f"/models/{action}", json=body)).status_code == status

    play(tmp_path, ONE, act)


def test_backs_and_figures_of_all_models(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        it.held.append(BackView("spare", "draft", "waiting", None, 0, 0))
        it.answerers["beta"].views = [BackView("mini", "draft", "drafting", 1.5, 5, 3)]
        await it.load("beta")
        await it.chat("beta")
        backs = (await it.client.get("/backs")).json()
        assert [(back["name"], back["target"]) for back in backs["data"]] == [("mini", "beta"), ("spare", None)]
        assert backs["speedup"] is None
        it.answerers["beta"].benefit = Benefit(2.0, 0.1, 40.0, 20.0, "with")
        await it.load("alpha")
        await it.chat("beta")
        for query in ("", "?model=beta"):
            assert (await it.client.get(f"/backs{query}")).json()["speedup"]["times"] == 2.0
        assert (await it.client.get("/backs?model=alpha")).json()["speedup"] is None
        figures = (await it.client.get("/metrics")).text
        assert 'duo_model_loaded{model="beta"} 1.0' in figures
        assert 'duo_model_loaded{model="alpha"} 1.0' in figures
        assert 'duo_answers_finished_total{model="beta",reason="stop"} 2.0' in figures

    play(tmp_path, TWO, act)


def test_figures_are_off_unless_asked_for(tmp_path: Path) -> None:
    async def run() -> None:
        async with scene(tmp_path, ONE, metrics=False) as it:
            assert (await it.client.get("/metrics")).status_code == 501

    asyncio.run(run())


def test_how_other_machines_join(tmp_path: Path) -> None:
    """The lead that has the ports says it. Those of the models are on loopback."""
    commands = Commands("python -m back --token t", "python chat.py")

    async def run() -> None:
        async with scene(tmp_path, ONE, joining=commands) as it:
            assert (await it.client.get("/join")).json() == {"back": commands.back, "chat": commands.chat}
        async with scene(tmp_path, ONE) as it:
            assert (await it.client.get("/join")).json() == {"back": None, "chat": None}

    asyncio.run(run())


def test_the_document_has_all_endpoints(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        paths = (await it.client.get("/openapi.json")).json()["paths"]
        assert {"/models/load", "/models/unload", "/v1/models", "/v1/chat/completions", "/slots"} <= paths.keys()
        assert "Load a model" in (await it.client.get("/docs")).text
        assert "text/html" in (await it.client.get("/")).headers["content-type"]

    play(tmp_path, TWO, act)


def test_two_models_answer_at_once_if_both_may_be_loaded(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        gate = AnswerGate()
        it.answerers["alpha"].script = [("slow",), gate, (" end",)]
        await it.load("alpha")
        await it.load("beta")
        async with it.stream("alpha") as lines:
            first = [await anext(lines), await anext(lines)]
            assert (await it.chat("beta")).status_code == 200
            gate.open()
            assert text_of([*first, *[line async for line in lines]]) == "slow end"

    play(tmp_path, TWO, act)


def test_refusals_of_a_model_reach_the_client(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        await it.load("alpha")
        refused = await it.chat("alpha", temperature="hot")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")
        async with it.stream("alpha") as lines:
            assert events([line async for line in lines])

    play(tmp_path, TWO, act)
