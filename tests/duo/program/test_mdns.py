"""Leads that announce themselves are found, over the loopback interface and between network namespaces."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from bench.harness.processes import free_port
from duo import __version__
from duo.errors import AddressError
from duo.program import mdns

pytestmark = pytest.mark.slow

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lead that really runs on this machine is in the way."""
    monkeypatch.setattr(mdns, "SERVICE", f"_duo-{os.getpid()}._tcp.local.")


async def listen(stack: AsyncExitStack, host: str = HERE) -> int:
    """Something that takes connections; its port."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), host, 0)
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
    monkeypatch.setattr(mdns, "WARN_AFTER", 0.05)

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


def test_ipv6s_loopback(caplog: pytest.LogCaptureFixture) -> None:
    """It has no multicast: IPv4's carries the news."""
    if not _has_ipv6():
        pytest.skip("no IPv6 here")

    async def run() -> None:
        async with AsyncExitStack() as stack:
            port = await listen(stack, "::1")
            await stack.enter_async_context(mdns.announced("::1", port, "m", False))
            assert await mdns.find() == f"[::1]:{port}"

    asyncio.run(run())
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("host", ["192.0.2.77", "2001:db8::77"])
def test_an_address_that_is_not_this_machines(host: str) -> None:
    async def run() -> None:
        async with mdns.announced(host, 1, "m", False):
            pass

    with pytest.raises(AddressError, match=r"no multicast DNS on this network: .+; start the lead without"):
        asyncio.run(run())


_LEAD = """
import asyncio, sys
from duo.program import mdns

async def run(host, port):
    async with await asyncio.start_server(lambda _, writer: writer.close(), host, port):
        async with mdns.announced(host, port, "m", False):
            print("announced", flush=True)
            await asyncio.to_thread(sys.stdin.read)

asyncio.run(run(sys.argv[1], 5556))
"""
_BACK = "import asyncio; from duo.program import mdns; print(asyncio.run(mdns.find()))"


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[str, str]]:
    """Two machines that know each other by IPv6 only, fd00:db8::1 and fd00:db8::2."""
    a, b = (f"duo-mdns-{os.getpid()}-{which}" for which in "ab")

    def ip(*commands: str) -> bool:
        return all(subprocess.run(["ip", *shlex.split(c)], capture_output=True).returncode == 0 for c in commands)

    if sys.platform != "linux" or not _has_ipv6():
        pytest.skip("no IPv6 here, or no network namespaces")
    try:
        if not ip(
            f"netns add {a}",
            f"netns add {b}",
            f"-n {a} link add lan type veth peer name lan netns {b}",
            f"-n {a} addr add fd00:db8::1/64 dev lan nodad",
            f"-n {b} addr add fd00:db8::2/64 dev lan nodad",
            *(f"-n {ns} link set {device} up" for ns in (a, b) for device in ("lo", "lan")),
        ):
            pytest.skip("network namespaces cannot be made here")
        yield a, b
    finally:
        ip(f"netns del {a}")
        ip(f"netns del {b}")


@pytest.mark.parametrize("host", ["fd00:db8::1", "::"])
def test_between_machines_by_ipv6(namespaces: tuple[str, str], host: str) -> None:
    def command(namespace: str, *program: str) -> list[str]:
        return ["ip", "netns", "exec", namespace, sys.executable, "-c", *program]

    there, here = namespaces
    lead = command(there, _LEAD, host)
    with subprocess.Popen(lead, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as a:
        try:
            assert a.stdout is not None
            assert a.stdout.readline() == "announced\n"
            found = subprocess.run(command(here, _BACK), capture_output=True, text=True, timeout=60, check=True)
            assert found.stdout == "[fd00:db8::1]:5556\n"
        finally:
            _, said = a.communicate("", timeout=60)
    assert "Traceback" not in found.stderr + said


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False
