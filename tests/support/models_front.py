"""The HTTP side of several models, in one event loop: real servers, scripted answers, and processes made of gates."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import httpx2
import uvicorn
from starlette.types import ASGIApp

import lead.flags
from lead.api import BackView
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from lead.http.info.metrics import Metrics
from lead.http.site import BODY_LIMIT, Options
from lead.models import app, settings
from lead.models.pool import Pool
from lead.models.process import LoadError
from lead.models.settings import ModelSettings
from lead.program import Ready
from lead.security.joining import Commands
from tests.support.http import PATIENCE, ScriptedAnswerer, vocabulary

KEY = "key-of-the-process"


class GatedWorker:
    """A process that loads, fails and ends when the test says so."""

    key, token = KEY, "token-of-the-process"

    def __init__(self, name: str, port: int) -> None:
        self.name, self._port = name, port
        self._loading: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stopped = asyncio.Event()

    async def load(self) -> Ready:
        return await self._loading

    async def ended(self) -> str:
        return await self._ended

    async def stop(self) -> None:
        self.stopped.set()

    def loaded(self) -> None:
        self._loading.set_result(Ready(self._port, 1, self.name, f"vocabulary of {self.name}"))

    def fails(self, why: str, own: bool = True) -> None:
        self._loading.set_exception(LoadError(why, own))

    def dies(self, why: str = "its process was ended by SIGKILL") -> None:
        self._ended.set_result(why)


class Scene:
    """Models with scripted answers, and a client of theirs."""

    def __init__(self, pool: Pool, answerers: Mapping[str, ScriptedAnswerer], client: httpx2.AsyncClient) -> None:
        self.pool, self.answerers, self.client = pool, answerers, client
        self.workers: list[GatedWorker] = []
        """Every process that was started, in order."""
        self.held: list[BackView] = []
        self.started = asyncio.Event()

    async def worker(self, number: int = 0) -> GatedWorker:
        """The process that is started as the first, second and so on."""
        async with asyncio.timeout(PATIENCE):
            while len(self.workers) <= number:
                self.started.clear()
                await self.started.wait()
        return self.workers[number]

    async def load(self, name: str) -> GatedWorker:
        """Load a model."""
        self.pool.want(name)
        worker = await self.worker(len(self.workers))
        worker.loaded()
        await self.until(lambda: name in self.pool.loaded)
        return worker

    async def until(self, holds: Any) -> None:
        """Wait until something holds that changes with the pool."""
        changed = asyncio.Event()
        self.pool.on_change.append(changed.set)
        async with asyncio.timeout(PATIENCE):
            while not holds():
                changed.clear()
                await changed.wait()

    async def chat(self, model: str | None, **fields: Any) -> httpx2.Response:
        body = {"messages": [{"role": "user", "content": "Hi"}], **({"model": model} if model else {}), **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    @asynccontextmanager
    async def stream(self, model: str, **fields: Any) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of a streamed answer, without empty ones."""
        body = {"messages": [{"role": "user", "content": "Hi"}], "model": model, "stream": True, **fields}
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            yield (line async for line in response.aiter_lines() if line)


@asynccontextmanager
async def hosted(app: ASGIApp) -> AsyncIterator[int]:
    """An app on a free port, in this event loop."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def scene(
    tmp_path: Path, text: str, metrics: bool = True, joining: Commands | None = None
) -> AsyncIterator[Scene]:
    """The models of a file of `--models`."""
    vocabulary()  # the first time takes seconds
    path = tmp_path / "models.yaml"
    path.write_text(text)
    parser = lead.flags.parser()
    found = settings.read(str(path), parser.parse_args([]), parser, lead.flags.parser())
    answerers, ports = dict[str, ScriptedAnswerer](), dict[str, int]()

    def spawn(model: ModelSettings) -> GatedWorker:
        worker = GatedWorker(model.name, ports[model.name])
        it.workers.append(worker)
        it.started.set()
        return worker

    async with AsyncExitStack() as stack:
        for model in found.models:
            answerer = answerers[model.name] = ScriptedAnswerer()
            counts = Metrics(answerer)
            answerer.observers = [counts]
            own = create_app(answerer, Options(alias=model.name, metrics=True), counts)
            ports[model.name] = await stack.enter_async_context(hosted(guarded(own, [KEY], BODY_LIMIT)))
        pool = Pool(found, spawn)
        front = app.Front(pool, lambda: it.held, metrics, joining)
        port = await stack.enter_async_context(hosted(guarded(app.create_app(front), ["client"], BODY_LIMIT)))
        client = await stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer client"}, timeout=PATIENCE
            )
        )
        it = Scene(pool, answerers, client)
        stack.push_async_callback(pool.stop)
        pool.start()
        yield it


@contextmanager
def running(tmp_path: Path, text: str, *loaded: str) -> Iterator[str]:
    """The models of a file of `--models` in a thread, some of them loaded. Yields the address."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(scene(tmp_path, text)) as it,
    ):
        for name in loaded:
            portal.call(it.load, name)
        yield str(it.client.base_url)


def events(lines: Sequence[str]) -> list[Any]:
    """What the data lines of a stream hold."""
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def text_of(lines: Sequence[str]) -> str:
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events(lines) if event.get("choices"))
