"""Who may connect to the port for backs: tokens, TLS, and limits for each back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from duo.errors import AddressError
from duo.program.tls_files import Files
from duo.wire.messages import MAX_MESSAGE_BYTES, METHOD
from lead.security.credentials import matches

log = logging.getLogger("lead")

HANDSHAKE_SECONDS = 10
IDLE_SECONDS = 60
"""A connection without a stream is closed after this time."""
SPARE_STREAMS = 16
"""Beyond one per back: for backs that reconnect before their old stream is gone, and for refusals."""
MAX_REMEMBERED = 1000
"""Refusals that were logged and are not logged again."""


@dataclass(frozen=True)
class Admission:
    """What a back needs to connect, and what it may do then.

    `backs`: how many at once. `guesses`: tokens per second that one back may guess; messages beyond that are dropped.
    """

    tokens: Sequence[str] = ()
    tls: Files = field(default_factory=Files)
    backs: int = 64
    message_bytes: int = MAX_MESSAGE_BYTES
    guesses: int = 80_000

    def server(self, serve_stream: Any) -> grpc.aio.Server:
        """A server that is not open yet. `serve_stream`: answers one stream."""
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_concurrent_streams", self.backs + SPARE_STREAMS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        ]
        server = grpc.aio.server(
            interceptors=[_Tokens(self.tokens)] if self.tokens else [],
            options=options,
            maximum_concurrent_rpcs=self.backs + SPARE_STREAMS,
        )
        service, method = METHOD.strip("/").split("/")
        # Without deserialisers bytes come in, so garbage meets one line of ours and not a stack trace of gRPC.
        handler: Any = grpc.stream_stream_rpc_method_handler(serve_stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        return server

    def open(self, server: grpc.aio.Server, host: str, port: int) -> int:
        """Listen; returns the port. With --tls-ca a back must show a certificate. Raises AddressError, FileError."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if not self.tls.cert:
                return server.add_insecure_port(address)
            ca = self.tls.read("ca") if self.tls.ca else None
            pair = (self.tls.read("key"), self.tls.read("cert"))
            return server.add_secure_port(address, grpc.ssl_server_credentials([pair], ca, ca is not None))
        except RuntimeError:
            raise AddressError(
                f"cannot listen for backs on {host}:{port}: is the port in use? choose another with --back-port"
            ) from None


class Allowance:
    """A token bucket that holds one second's worth of units."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._then = now

    def takes(self, units: int, now: float) -> bool:
        """Take units if there are enough at `now` (seconds by any steady clock). Returns whether there were."""
        self._left = min(self._per_second, self._left + (now - self._then) * self._per_second)
        self._then = now
        if units > self._left:
            return False
        self._left -= units
        return True


class Refusals:
    """Logs why backs were refused: one line for each back and reason, however often it tries."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def log(self, who: str, reason: object) -> None:
        line = (who, str(reason))
        if line not in self._logged:
            if len(self._logged) > MAX_REMEMBERED:
                self._logged.clear()
            self._logged.add(line)
            log.warning("back %s refused: %s", *line)


class _Tokens(grpc.aio.ServerInterceptor):
    """Refuses calls without one of the tokens, before a byte of them is read."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._refusals = Refusals()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        given = dict(handler_call_details.invocation_metadata).get("authorization", "")
        token = str(given).removeprefix("Bearer ")
        if matches(token, self._tokens):
            return await continuation(handler_call_details)
        wrong = "the token is wrong" if token else "no token given"

        async def refuse(_: object, stream: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            self._refusals.log(f"at {host_of(stream.peer())}", wrong)
            how = "start the back with the --token of this lead"
            await stream.abort(grpc.StatusCode.UNAUTHENTICATED, f"{wrong}: {how}")

        handler: Any = grpc.stream_stream_rpc_method_handler(refuse)
        return handler


def host_of(peer: str) -> str:
    """The host in gRPC's 'ipv4:127.0.0.1:1234'. The port would change with every try."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "[").replace("%5D", "]") or "a stream"
