"""Finding a lead on the LAN by multicast DNS: the lead announces itself, and a back listens.

Everyone on the network sees an announcement, so it holds no secrets. Anyone can announce anything, so only TLS proves
that a lead is the right one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from zeroconf import ServiceStateChange, Zeroconf, get_all_addresses, get_all_addresses_v6  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from duo import __version__
from duo.errors import AddressError

SERVICE = "_duo-lead._tcp.local."

SETTLE_SECONDS = 1.0
"""Time for other leads to answer after the first one."""
WARN_AFTER = 5.0
"""Seconds without a lead before a warning."""
ANSWER_MS = 3000
REACH_SECONDS = 2.0

Interfaces = list[str | int]
"""Own addresses or interface indices, as zeroconf takes both."""

log = logging.getLogger("back")

# zeroconf logs a traceback for an interface without multicast. The other interfaces are enough.
logging.getLogger("zeroconf").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Found:
    """A lead that announces itself. `addresses` may include some that this machine cannot reach."""

    name: str
    addresses: Sequence[str]
    port: int
    model: str
    tls: bool


@asynccontextmanager
async def announced(host: str, port: int, model: str, tls: bool) -> AsyncIterator[str]:
    """Announce a lead with this port for backs while the context is open. Yields the name that it got.

    Raises AddressError.
    """
    addresses, interfaces = _of_host(host)
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
    zeroconf = _open(interfaces, "start the lead without --announce")
    try:
        await (await zeroconf.async_register_service(info, allow_name_change=True))
        yield info.name.removesuffix(f".{SERVICE}")
    finally:
        await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()


async def find(interfaces: Sequence[str] | None = None) -> str:
    """Wait for a lead and return its HOST:PORT; of several the first by name.

    interfaces: own addresses, or None for all. Raises AddressError.
    """
    found = await _all(interfaces)
    while not (reached := [(one, at) for one in found if (at := await _reach(one))]):
        for one in found:
            log.warning("lead %s at %s, port %d cannot be reached", one.name, ", ".join(one.addresses), one.port)
        await asyncio.sleep(WARN_AFTER)
        found = await _all(interfaces)
    (first, address), others = reached[0], [one.name for one, _ in reached[1:]]
    among = f", the first by name; there are also {', '.join(others)}" if others else ""
    log.info("found the lead %s at %s with %s%s", first.name, address, first.model, among)
    return address


async def _all(interfaces: Sequence[str] | None) -> list[Found]:
    """Wait for announcements. Returns at least one lead, sorted by name."""
    names: set[str] = set()
    news = asyncio.Event()

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        (names.discard if state_change is ServiceStateChange.Removed else names.add)(name)
        news.set()

    zeroconf = _open(list(interfaces) if interfaces else _all_interfaces(), "name the lead with --lead HOST:PORT")
    try:
        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[changed])
        said = False
        while True:
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), None if said else WARN_AFTER)
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
    """The HOST:PORT at which the lead answers, or an empty string."""
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
    """Properties from the network, printable for a log line."""
    plain = ((key, (value or b"").decode("utf-8", "replace")) for key, value in properties.items())
    return {key.decode("utf-8", "replace"): "".join(c for c in value if c.isprintable()) for key, value in plain}


def _of_host(host: str) -> tuple[list[str], Interfaces]:
    """Addresses to announce for a lead that listens on `host`, and the interfaces to announce them on."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = ipaddress.ip_address(socket.gethostbyname(host))
    if address.is_unspecified:
        found = get_all_addresses() + (_all_v6() if address.version == 6 else [])
        return [one for one in found if not ipaddress.ip_address(one).is_loopback], _all_interfaces()
    if address.is_loopback:
        return [str(address)], ["127.0.0.1"]  # the loopback interface has no IPv6 multicast
    plain = str(address).partition("%")[0]
    return [plain], [plain]


def _all_v6() -> list[str]:
    """IPv6 addresses by which others reach this machine. Link-local ones are ambiguous, so they are left out."""
    return [ip for (ip, _, _), _ in get_all_addresses_v6() if not ipaddress.ip_address(ip).is_link_local]


def _all_interfaces() -> Interfaces:
    v6 = {index for (ip, _, _), index in get_all_addresses_v6() if not ipaddress.ip_address(ip).is_loopback}
    return [*get_all_addresses(), *sorted(v6)]


def _open(interfaces: Interfaces, instead: str) -> AsyncZeroconf:
    """Open multicast DNS. `instead`: advice for the error message. Raises AddressError."""
    try:
        return AsyncZeroconf(interfaces=interfaces)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AddressError(f"no multicast DNS on this network: {reason.lower()}; {instead}") from None
