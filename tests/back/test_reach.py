"""Why there is no lead, in a person's words."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from back import reach
from back.reach import unreachable


def said(address: str) -> str:
    return asyncio.run(unreachable(address))


def test_a_name_that_nobody_has() -> None:
    assert said("no.such.host.invalid:1") == (
        "there is no machine called no.such.host.invalid; check the name, or use its address"
    )
    assert "192.168.1..20" in said("192.168.1..20:1")


def test_nothing_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        assert said(f"127.0.0.1:{held.getsockname()[1]}").startswith("nothing listens there")


def test_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert said(f"127.0.0.1:{listening.getsockname()[1]}") == reach.BROKE


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "nothing answers there; check the address, and the firewall"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to host; check the address"),
    ],
)
def test_no_way_to_it(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(host: str, port: int) -> None:
        raise error

    monkeypatch.setattr(asyncio, "open_connection", fails)
    assert said("[fd00::1]:5556").startswith(words)
