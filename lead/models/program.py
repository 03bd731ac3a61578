"""What a lead of several models starts, wires together and stops, in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging

from lead import network
from lead.backs.admission import Admission
from lead.http.edge import connections
from lead.models.app import Front, create_app
from lead.models.back_port import BackPort
from lead.models.pool import Pool
from lead.models.settings import Settings
from lead.security.credentials import access
from lead.security.joining import http_address, joining

log = logging.getLogger("lead")


async def serve_several(args: argparse.Namespace, settings: Settings) -> None:
    """Listen, load models as they are asked for, and hand on, until cancelled."""
    files = network.tls_files(args)
    allowed = access(args)
    network.check_ports(args)
    listening = network.listen(args.host, args.port, "--port")
    port = listening.getsockname()[1]
    pool = Pool(settings)
    back_port = BackPort(pool)
    admission = Admission(allowed.tokens, files, args.max_backs, args.max_message, args.max_guesses)
    announcing = contextlib.AsyncExitStack()
    server: connections.Server | None = None
    http: asyncio.Future[None] | None = None
    try:
        back_number = await back_port.serve(args.host, args.back_port, admission)
        network.tell_access(args, allowed, joining(args, allowed, port, back_number, secrets=True))
        front = Front(pool, back_port.held, args.metrics, joining(args, allowed, port, back_number))
        server = connections.Server(network.http(args, create_app(front), allowed))
        http = asyncio.ensure_future(server.serve(sockets=[listening]))
        log.info(
            "%d models, %d at once: %s for clients, port %d for backs",
            len(settings.models), settings.max_loaded, http_address(args, port), back_number,
        )  # fmt: skip
        await announcing.enter_async_context(network.announced(args, back_number, settings.models[0].name))
        pool.start()
        await http
    finally:
        await announcing.aclose()
        if server is not None:
            server.should_exit = True
        await back_port.stop()
        await pool.stop()
        if http is None:
            listening.close()
        else:
            with contextlib.suppress(asyncio.CancelledError):
                await http
        log.info("stopped")
