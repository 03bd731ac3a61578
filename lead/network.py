"""What stands between a program and the network: sockets, uvicorn's settings, and what people are told about access."""

from __future__ import annotations

import argparse
import contextlib
import logging
import socket
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.types import ASGIApp

from duo.errors import AddressError, FileError
from duo.program import mdns, values
from duo.program.tls_files import Files
from lead.http.edge import connections
from lead.http.edge.auth import guarded
from lead.security.credentials import Access
from lead.security.joining import Commands

log = logging.getLogger("lead")


def tls_files(args: argparse.Namespace) -> Files:
    """The files for TLS that the flags name, checked. Raises FileError."""
    files = Files(args.tls_cert, args.tls_key, args.tls_ca)
    files.check()
    if args.tls_ca and not args.tls_cert:
        raise FileError("--tls-ca needs --tls-cert and --tls-key: certificates of backs are for a lead with TLS")
    return files


@contextlib.asynccontextmanager
async def announced(args: argparse.Namespace, back_port: int, model: str) -> AsyncIterator[None]:
    """While the context is open, backs on this network find the lead, if --announce asks for that."""
    if not args.announce:
        yield
        return
    async with mdns.announced(args.host, back_port, model, bool(args.tls_cert)) as name:
        log.info("announced as %s: backs on this network find it with --lead auto", name)
        yield


def http(args: argparse.Namespace, app: ASGIApp, allowed: Access) -> uvicorn.Config:
    """The app with all that stands before it."""
    names = None if args.insecure else [name.lower() for name in (args.host, *values.several(args.allowed_host))]
    limits = connections.Limits(
        args.max_connections, args.max_connections_per_address, args.head_timeout, args.body_timeout
    )
    return uvicorn.Config(
        guarded(app, allowed.keys, args.max_body, values.several(args.cors_origin), names),
        http=limits.protocol(),
        # A connection that became a websocket would not be counted, nor ended; and nothing here speaks it.
        ws="none",
        ssl_certfile=args.tls_cert or None,
        ssl_keyfile=args.tls_key or None,
        timeout_keep_alive=args.keep_alive,
        log_config=None,
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=1,
    )


def tell_access(args: argparse.Namespace, allowed: Access, commands: Commands | None) -> None:
    """What a person has to know of a lead that others can reach. commands: for others, with secrets in them."""
    if commands is None:
        return
    if not allowed.keys or not allowed.tokens:
        who = " and ".join(("clients",) * (not allowed.keys) + ("backs",) * (not allowed.tokens))
        log.warning("WARNING: --insecure: everyone who can reach %s may be one of its %s", args.host, who)
    if not args.tls_cert:
        log.warning("without TLS (--tls-cert) others on the way can read all that is said, with keys and tokens")
    for line in commands.lines():
        # Not a log line: it may hold secrets, and is there to be copied.
        print(line, file=sys.stderr, flush=True)


def check_ports(args: argparse.Namespace) -> None:
    """Raises AddressError if clients and backs are to use the same port."""
    if args.port == args.back_port != 0:
        raise AddressError(f"--port and --back-port are both {args.port}: choose two ports")


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A bound socket. Raises AddressError, which names the flag that chooses another port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        raise AddressError(f"cannot listen on {host}:{port}: {reason}; choose another --host or {flag}") from None
    return listening
