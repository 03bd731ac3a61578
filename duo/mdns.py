"""Finding a lead on the LAN by multicast DNS: the lead announces itself, a back listens for who does.

What is announced is seen by everyone on the network, and anyone can announce anything: there are no secrets in it, and
that it is the right lead is for TLS to say.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from zeroconf import InterfaceChoice, ServiceStateChange, Zeroconf, get_all_addresses  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from duo import __version__

SERVICE = "_duo-lead._tcp.local."

SETTLE_SECONDS = 1.0
"""For other leads to answer as well, once the first has."""
SAY_AFTER = 5.0
"""Seconds without a lead after which it is said that there is none."""
ANSWER_MS = 3000
REACH_SECONDS = 2.0

log = logging.getLogger("back")


@dataclass(frozen=True)
class Found:
    """A lead that announces itself: its name, where it may be reached, and whether it speaks TLS."""

    name: str
    addresses: Sequence[str]
    port: int
    model: str
    tls: bool


@asynccontextmanager
async def announced(host: str, port: int, model: str, tls: bool) -> AsyncIterator[str]:
    """Announce a lead that takes backs on this port, for as long as the context is open; gives the name it got."""
    everywhere = ipaddress.ip_address(host).is_unspecified if _is_address(host) else False
    addresses = _outer(get_all_addresses()) if everywhere else [_resolved(host)]
    machine = re.sub(r"[^\w-]+", "-", socket.gethostname().partition(".")[0])[:40] or "lead"
    name = f"{machine}-{port}"  # a machine may run several
    info = AsyncServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        port,
        properties={"version": __version__, "model": model.encode()[:200], "tls": "1" if tls else "0"},
        parsed_addresses=addresses,
        server=f"{name}.local.",
    )
    # A lead that listens on one address speaks of it on that network only.
    zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All if everywhere else addresses)
    try:
        await (await zeroconf.async_register_service(info, allow_name_change=True))
        yield info.name.removesuffix(f".{SERVICE}")
    finally:
        await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()


async def find(interfaces: Sequence[str] | None = None) -> str:
    """HOST:PORT of a lead: looks until there is one, and takes the first by name. `interfaces`: own addresses; all."""
    found = await _all(interfaces)
    while not (reached := [(one, at) for one in found if (at := await _reach(one))]):
        for one in found:
            log.warning("lead %s at %s, port %d cannot be reached", one.name, ", ".join(one.addresses), one.port)
        await asyncio.sleep(SAY_AFTER)
        found = await _all(interfaces)
    (first, address), others = reached[0], [one.name for one, _ in reached[1:]]
    among = f", the first by name; there are also {', '.join(others)}" if others else ""
    log.info("found the lead %s at %s with %s%s", first.name, address, first.model, among)
    return address


async def _all(interfaces: Sequence[str] | None) -> list[Found]:
    """At least one, by name."""
    names: set[str] = set()
    news = asyncio.Event()

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        (names.discard if state_change is ServiceStateChange.Removed else names.add)(name)
        news.set()

    zeroconf = AsyncZeroconf(interfaces=interfaces or InterfaceChoice.All)
    try:
        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[changed])
        said = False
        while True:
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), None if said else SAY_AFTER)
            except TimeoutError:
                log.warning("no lead announces itself on this network (python -m lead --announce); still looking")
                said = True
                continue
            await asyncio.sleep(SETTLE_SECONDS)
            found = [one for name in sorted(names) if (one := await _ask(zeroconf, name)) is not None]
            if found:
                await browser.async_cancel()
                return found
    finally:
        await zeroconf.async_close()


async def _ask(zeroconf: AsyncZeroconf, name: str) -> Found | None:
    info = AsyncServiceInfo(SERVICE, name)
    if not await info.async_request(zeroconf.zeroconf, ANSWER_MS) or info.port is None:
        return None
    text = _text(info.properties)
    addresses = info.parsed_scoped_addresses()
    return Found(name.removesuffix(f".{SERVICE}"), addresses, info.port, text.get("model", "?"), text.get("tls") == "1")


async def _reach(lead: Found) -> str:
    """Where it answers; empty if nowhere. A lead may have addresses that mean nothing here."""
    for address in lead.addresses:
        try:
            async with asyncio.timeout(REACH_SECONDS):
                _, writer = await asyncio.open_connection(address, lead.port)
        except (OSError, TimeoutError):
            continue
        writer.close()
        return f"[{address}]:{lead.port}" if ":" in address else f"{address}:{lead.port}"
    return ""


def _text(properties: Mapping[bytes, bytes | None]) -> dict[str, str]:
    """What others say of themselves, made fit for a log line."""
    plain = ((key, (value or b"").decode("utf-8", "replace")) for key, value in properties.items())
    return {key.decode("utf-8", "replace"): "".join(c for c in value if c.isprintable()) for key, value in plain}


def _outer(addresses: Iterable[str]) -> list[str]:
    """Those by which others reach this machine."""
    return [address for address in addresses if not ipaddress.ip_address(address).is_loopback]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolved(host: str) -> str:
    return host if _is_address(host) else socket.gethostbyname(host)
