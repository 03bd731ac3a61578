"""Why a lead cannot be reached, in words for a person. gRPC's words are its own, such as `Internal error from Core`."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import grpc

PATIENCE = 5.0
"""Seconds for a connection."""
BROKE = "the connection broke"


async def unreachable(address: str) -> str:
    """One line on a lead that did not answer. Opens a connection of its own and closes it again."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return "nothing listens there; start the lead, or check the port, which the lead prints"
    except TimeoutError:
        return "nothing answers there; check the address, and the firewall of that machine"
    except (socket.gaierror, UnicodeError):
        return f"there is no machine called {host}; check the name, or use its address"
    except OSError as error:
        return (
            f"{(error.strerror or 'it cannot be reached').lower()}; check the address, and the network of both machines"
        )
    with contextlib.closing(writer):
        return BROKE


def broken(code: grpc.StatusCode) -> str:
    """One line on a stream that had been under way."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return "a message was too large; start lead and back from the same version of duo"
    return BROKE
