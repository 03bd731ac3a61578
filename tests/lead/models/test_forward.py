"""Requests that wait for their model, models that end under them, and clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from lead.http.responses.shapes import ResponseEvent
from lead.models import forward
from tests.support.http import PATIENCE, AnswerGate
from tests.support.models_front import Scene, events, scene, text_of

MODELS = "models: {alpha: {}, beta: {}}"
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments come at once, and often."""
    monkeypatch.setattr(forward, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(forward, "COMMENT_SECONDS", 0.01)


def play(tmp_path: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with scene(tmp_path, MODELS) as it:
            await act(it)

    asyncio.run(run())


def test_a_whole_answer_waits_and_says_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(it: Scene) -> None:
        now = 100.0
        monkeypatch.setattr(forward, "time", SimpleNamespace(monotonic=lambda: now))
        asking = asyncio.ensure_future(it.chat("alpha"))
        worker = await it.worker()
        now = 112.34
        worker.loaded()
        answer = await asking
        assert answer.json()["choices"][0]["message"]["content"] == "Hello, world!"
        assert answer.headers["x-model-wait"] == "12.3"
        assert "x-model-wait" not in (await it.chat("alpha")).headers

    play(tmp_path, act)


def test_a_stream_hears_that_its_model_loads(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        async with it.stream("alpha") as lines:
            assert [await anext(lines) for _ in range(3)] == [": alpha is loading"] * 3
            (await it.worker()).loaded()
            assert text_of([line async for line in lines]) == "Hello, world!"

    play(tmp_path, act)


def test_a_model_that_does_not_fit(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        asking = asyncio.ensure_future(it.chat("alpha"))
        (await it.worker()).fails("20 GiB are needed, and 8 are free")
        refused = await asking
        assert refused.status_code == 503
        error = refused.json()["error"]
        assert error["code"] == "model_unavailable"
        assert "alpha" in error["message"] and "20 GiB are needed" in error["message"]
        await it.load("beta")
        assert (await it.chat("beta")).status_code == 200

    play(tmp_path, act)


def test_a_stream_that_has_begun_to_wait_hears_of_a_failure_as_an_event(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        async with it.stream("alpha") as lines:
            await anext(lines)
            (await it.worker()).fails("it does not fit")
            (event,) = events([line async for line in lines])
            assert "it does not fit" in event["error"]["message"]

    play(tmp_path, act)


def test_each_api_hears_of_a_failure_in_its_own_form(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        bodies: dict[str, dict[str, Any]] = {
            "/v1/messages": {"messages": HI, "max_tokens": 5},
            "/v1/completions": {"prompt": "Hi"},
            "/responses": {"input": "Hi"},
            "/v1/responses": {"input": "Hi"},
        }
        ends = dict[str, str]()
        for number, (path, body) in enumerate(bodies.items()):
            async with it.client.stream("POST", path, json={"model": "alpha", "stream": True, **body}) as response:
                lines = response.aiter_lines()
                await anext(lines)
                (await it.worker(number)).fails("its process was ended by SIGKILL", own=False)
                ends[path] = "\n".join([line async for line in lines])
        assert "event: error" in ends["/v1/messages"] and '"api_error"' not in ends["/v1/messages"]
        assert "event:" not in ends["/v1/completions"]
        for path in ("/responses", "/v1/responses"):
            error, failed = events(ends[path].splitlines())
            assert "event: error\n" in ends[path] and "event: response.failed\n" in ends[path]
            for number, told in enumerate((error, failed)):
                assert ResponseEvent.model_validate(told).sequence_number == number
            assert "SIGKILL" in error["message"] and "SIGKILL" in failed["response"]["error"]["message"]
            assert (failed["response"]["status"], failed["response"]["model"]) == ("failed", "alpha")

    play(tmp_path, act)


def breaks(it: Scene, response: httpx2.Response) -> None:
    """Let the process of alpha answer so."""
    transport = httpx2.MockTransport(lambda request: response)
    http = httpx2.AsyncClient(transport=transport, base_url="http://it", headers={"authorization": "x"})
    it.pool.loaded["alpha"] = replace(it.pool.loaded["alpha"], http=http)


def test_a_refusal_of_a_stream_that_breaks_off_gets_no_events(tmp_path: Path) -> None:
    """It is JSON: the client sees that it is not complete."""

    async def half() -> AsyncIterator[bytes]:
        yield b'{"error": '
        raise httpx2.ReadError("reset by peer")

    async def act(it: Scene) -> None:
        await it.load("alpha")
        breaks(it, httpx2.Response(400, content=half(), headers={"content-type": "application/json"}))
        with pytest.raises(httpx2.RemoteProtocolError):
            await it.chat("alpha", stream=True)

    play(tmp_path, act)


def test_a_break_in_the_middle_of_an_event_is_heard_as_an_event_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "LAST_SECONDS", 0.01)

    async def half() -> AsyncIterator[bytes]:
        yield b'event: response.created\ndata: {"type": "response.created"}\n'
        yield b"\n"
        yield b"event: response.outp"
        raise httpx2.ReadError("reset by peer")

    async def act(it: Scene) -> None:
        await it.load("alpha")
        breaks(it, httpx2.Response(200, content=half(), headers={"content-type": "text/event-stream; charset=utf-8"}))
        body = {"model": "alpha", "stream": True, "input": "Hi"}
        answer = await it.client.post("/v1/responses", json=body)
        created, _, error, failed, rest = answer.text.split("\n\n")
        assert created and not rest
        assert error.startswith("event: error\ndata: ") and failed.startswith("event: response.failed\ndata: ")
        numbers = [event["sequence_number"] for event in events(answer.text.splitlines()[1:]) if len(event) > 1]
        assert numbers == [1, 2]
        assert "try again" in events(error.splitlines())[0]["message"]

    play(tmp_path, act)


def test_a_wrong_request_that_has_waited_hears_so_as_an_event(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        async with it.stream("alpha", temperature="hot") as lines:
            await anext(lines)
            (await it.worker()).loaded()
            (event,) = events([line async for line in lines])
            assert event["error"]["param"] == "temperature"

    play(tmp_path, act)


def test_killed_in_the_middle_of_a_load_the_next_request_loads_anew(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        asking = asyncio.ensure_future(it.chat("alpha"))
        (await it.worker()).fails("its process was ended by SIGKILL", own=False)
        assert "SIGKILL" in (await asking).json()["error"]["message"]
        asking = asyncio.ensure_future(it.chat("alpha"))
        (await it.worker(1)).loaded()
        assert (await asking).status_code == 200

    play(tmp_path, act)


def test_a_process_that_cannot_be_reached(tmp_path: Path) -> None:
    """It is gone, and its end has not been noticed when the request comes."""

    async def act(it: Scene) -> None:
        worker = await it.load("alpha")
        loaded = it.pool.loaded["alpha"]
        loaded.http.base_url = "http://127.0.0.1:9"
        asking = asyncio.ensure_future(it.chat("alpha"))
        await it.until(lambda: it.pool.entries["alpha"].active)
        worker.dies("its process was ended by SIGSEGV")
        refused = await asking
        assert refused.status_code == 503
        assert "SIGSEGV" in refused.json()["error"]["message"]

    play(tmp_path, act)


def test_a_client_that_leaves_while_its_model_loads(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        asking = asyncio.ensure_future(it.chat("alpha"))
        first = await it.worker()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        other = asyncio.ensure_future(it.chat("beta"))
        await asyncio.wait_for(first.stopped.wait(), PATIENCE)
        (await it.worker(1)).loaded()
        assert (await other).status_code == 200

    play(tmp_path, act)


def test_a_client_that_leaves_ends_its_answer(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        await it.load("alpha")
        it.answerers["alpha"].script = [("for",), AnswerGate(), ("ever",)]
        async with it.stream("alpha") as lines:
            await anext(lines)
        answer = await asyncio.to_thread(it.answerers["alpha"].next_asked)
        assert await asyncio.to_thread(answer.cancelled.wait, PATIENCE)
        await it.until(lambda: not it.pool.entries["alpha"].active)

    play(tmp_path, act)


def test_the_key_of_a_client_stays_here(tmp_path: Path) -> None:
    """The process has a key of its own: a request with the client's would be refused there."""

    async def act(it: Scene) -> None:
        await it.load("alpha")
        answer = await it.client.post(
            "/v1/chat/completions", headers={"x-api-key": "client"},
            json={"model": "alpha", "messages": [{"role": "user", "content": "Hi"}]},
        )  # fmt: skip
        assert answer.status_code == 200

    play(tmp_path, act)


def test_a_busy_model_makes_room_after_its_answers(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        await it.load("alpha")
        gate = AnswerGate()
        it.answerers["alpha"].script = [("slow",), gate, (" end",)]
        async with it.stream("alpha") as lines:
            first = await anext(lines)
            other = asyncio.ensure_future(it.chat("beta"))
            await it.until(lambda: it.pool.entries["alpha"].closing)
            behind = asyncio.ensure_future(it.chat("alpha"))
            gate.open()
            assert text_of([first, *[line async for line in lines]]) == "slow end"
        (await it.worker(1)).loaded()
        assert (await other).json()["model"] == "beta"
        it.answerers["alpha"].script = [("again",)]
        (await it.worker(2)).loaded()
        assert (await behind).json()["choices"][0]["message"]["content"] == "again"

    play(tmp_path, act)
