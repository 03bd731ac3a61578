"""The way out of a back's stream, and tasks that end together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

import grpc

Stream = grpc.aio.ServicerContext[bytes, bytes]

SETTLE_SECONDS = 5.0
"""For a message that is on its way when the stream ends."""


class Out:
    """The way out of a stream. A message is sent to its end, even if the sender is cancelled. gRPC takes one message
    at a time. A stream cannot end in order before its last message has left."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sending: asyncio.Future[None] | None = None

    async def send(self, message: bytes) -> None:
        self._sending = asyncio.ensure_future(self._stream.write(message))
        self._sending.add_done_callback(lambda done: done.cancelled() or done.exception())  # mark as seen
        await asyncio.shield(self._sending)

    async def settle(self) -> bool:
        """Wait for the message that is on its way, if any. Returns whether another one can be sent."""
        if self._sending is not None:
            with contextlib.suppress(Exception):  # a peer that is gone, or does not read
                await asyncio.wait_for(asyncio.shield(self._sending), SETTLE_SECONDS)
            return self._sending.done()
        return True


async def first_of(*coroutines: Awaitable[None]) -> None:
    """Run them together until one ends, and raise its exception."""
    tasks = [asyncio.ensure_future(c) for c in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
