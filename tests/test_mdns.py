"""Leads that announce themselves are found, over the loopback interface."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from bench.processes import free_port
from duo import __version__, mdns

pytestmark = pytest.mark.slow

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lead that really runs on this machine is in the way."""
    monkeypatch.setattr(mdns, "SERVICE", f"_duo-{os.getpid()}._tcp.local.")


async def listen(stack: AsyncExitStack) -> int:
    """Something that takes connections; its port."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), HERE, 0)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


def test_one_is_found_and_nothing_secret_is_told() -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            port = await listen(stack)
            name = await stack.enter_async_context(mdns.announced(HERE, port, "Qwen3-8B", True))
            assert await mdns.find([HERE]) == f"{HERE}:{port}"
            zeroconf = AsyncZeroconf(interfaces=[HERE])
            stack.push_async_callback(zeroconf.async_close)
            info = AsyncServiceInfo(mdns.SERVICE, f"{name}.{mdns.SERVICE}")
            assert await info.async_request(zeroconf.zeroconf, mdns.ANSWER_MS)
            assert info.properties == {b"version": __version__.encode(), b"model": b"Qwen3-8B", b"tls": b"1"}

    asyncio.run(run())


def test_the_first_by_name_of_several(caplog: pytest.LogCaptureFixture) -> None:
    """One that announces itself but cannot be reached is passed over."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            ports = [free_port(), await listen(stack), await listen(stack)]
            names = [await stack.enter_async_context(mdns.announced(HERE, port, "m", False)) for port in ports]
            port_of = dict(zip(names[1:], ports[1:], strict=True))
            first, second = sorted(port_of)
            with caplog.at_level(logging.INFO, "back"):
                while not caplog.text.count("also"):  # one that is slow to announce itself may come too late
                    found = await mdns.find([HERE])
            assert found == f"{HERE}:{port_of[first]}"
            assert f"found the lead {first}" in caplog.text
            assert f"there are also {second}" in caplog.text

    asyncio.run(run())


def test_none_is_said_once_and_looked_for_on(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "SAY_AFTER", 0.05)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            port = await listen(stack)
            said = asyncio.Event()
            handler = logging.Handler()
            monkeypatch.setattr(handler, "emit", lambda record: said.set())
            logger = logging.getLogger("back")
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
            looking = asyncio.ensure_future(mdns.find([HERE]))
            await said.wait()
            await stack.enter_async_context(mdns.announced(HERE, port, "m", False))
            assert await looking == f"{HERE}:{port}"

    asyncio.run(run())
    assert caplog.text.count("no lead announces itself") == 1
