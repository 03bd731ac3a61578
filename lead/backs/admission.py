"""Who comes in at the gRPC port: tokens, TLS, and limits on what one back may do."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from duo.errors import AddressError
from duo.program.tls_files import Files
from duo.wire.messages import MAX_MESSAGE_BYTES
from lead.security.credentials import matches

log = logging.getLogger("lead")

HANDSHAKE_SECONDS = 10
IDLE_SECONDS = 60
"""After which a connection without a stream is closed."""
SPARE_STREAMS = 16
"""Beside one per back: those that come again before their old one is gone, and those that get a refusal."""
MOST_REMEMBERED = 1000


@dataclass(frozen=True)
class Admission:
    """What a back needs to come in, and what it may then do. `guesses`: tokens per second that it may guess; of fewer
    than a message holds whole messages are dropped."""

    tokens: Sequence[str] = ()
    tls: Files = field(default_factory=Files)
    backs: int = 64
    message_bytes: int = MAX_MESSAGE_BYTES
    guesses: int = 80_000

    def server(self) -> grpc.aio.Server:
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_concurrent_streams", self.backs + SPARE_STREAMS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        ]
        return grpc.aio.server(
            interceptors=[_Tokens(self.tokens)] if self.tokens else [],
            options=options,
            maximum_concurrent_rpcs=self.backs + SPARE_STREAMS,
        )

    def open(self, server: grpc.aio.Server, host: str, port: int) -> int:
        """Listen; returns the port. With --tls-ca a back has to show a certificate. Raises AddressError, FileError."""
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
    """A token bucket: so many units per second, and one second's worth at once."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._then = now

    def takes(self, units: int, now: float) -> bool:
        """Whether so many more are within the allowance at `now`, seconds by any steady clock; if so they are taken."""
        self._left = min(self._per_second, self._left + (now - self._then) * self._per_second)
        self._then = now
        if units > self._left:
            return False
        self._left -= units
        return True


class _Tokens(grpc.aio.ServerInterceptor):
    """Refuses calls that do not bring one of the tokens, before a byte of them is read."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._told: set[tuple[str, str]] = set()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        given = dict(handler_call_details.invocation_metadata).get("authorization", "")
        token = str(given).removeprefix("Bearer ")
        if matches(token, self._tokens):
            return await continuation(handler_call_details)
        wrong = "the token is wrong" if token else "no token given"

        async def refuse(_: object, stream: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            self._tell(plain(stream.peer()), wrong)
            how = "start the back with the --token of this lead"
            await stream.abort(grpc.StatusCode.UNAUTHENTICATED, f"{wrong}: {how}")

        handler: Any = grpc.stream_stream_rpc_method_handler(refuse)
        return handler

    def _tell(self, who: str, wrong: str) -> None:
        """One line for each address and reason, however often it tries."""
        if (who, wrong) not in self._told:
            if len(self._told) > MOST_REMEMBERED:
                self._told.clear()
            self._told.add((who, wrong))
            log.warning("back at %s refused: %s", who, wrong)


def plain(peer: str) -> str:
    """The host of gRPC's 'ipv4:127.0.0.1:1234'; the port changes with every try."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "[").replace("%5D", "]") or "a stream"
