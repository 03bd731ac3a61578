"""Backs at the port of several models: streams by hand, and leads of models that take backs and do nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from duo.engines.meaning import fingerprint
from duo.errors import RefusedError
from duo.trace import Trace
from duo.v1 import duo_pb2 as pb
from duo.wire.back_side import BackSide
from duo.wire.ledger import Ledger
from duo.wire.messages import Identity
from lead.backs.admission import Admission
from lead.backs.server import Backs
from lead.decode.inbox import Inbox
from lead.models.back_port import BackPort
from lead.models.registry import Entry
from lead.plan.limits import Limits
from lead.plan.verify_all import VerifyAll
from lead.program import Ready
from tests.support.http import PATIENCE

TOKEN = "of-the-process"
VOCABULARIES = {
    "numbers": [b"%d" % token for token in range(1000)],
    "nearly": [b"%d" % token for token in range(999)] + [b"<end>"],
    "letters": [b"x%d" % token for token in range(1000)],
}


def identity(name: str, model: str, vocabulary: str) -> Identity:
    meanings = VOCABULARIES[vocabulary]
    return Identity(name, model, fingerprint(meanings), len(meanings), meanings)


class Stream:
    """A back's stream at the port, driven by the protocol's own code."""

    def __init__(self, name: str, vocabulary: str, hello: bytes | None = None, looks: bool = False) -> None:
        self.refused = ""
        """Why, as the back hears it."""
        self.side = BackSide(identity(name, "draft", vocabulary), 0.0, looks=looks)
        self.heard: list[str] = []
        """Kinds of the messages that came."""
        self.changed = asyncio.Event()
        self._going: asyncio.Queue[bytes] = asyncio.Queue()
        self._going.put_nowait(self.side.hello([]) if hello is None else hello)

    async def requests(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._going.get()

    async def write(self, data: bytes) -> None:
        self.heard.append(pb.LeadMessage.FromString(data).WhichOneof("kind") or "")
        self.changed.set()
        try:
            self.side.receive(data, 0.0)
        except RefusedError as error:
            self.refused = str(error)
        for message in self.side.send(0.0):
            self._going.put_nowait(message)

    def peer(self) -> str:
        return "ipv4:192.168.1.30:1"

    async def until(self, *kinds: str) -> None:
        """Wait until these were heard, pings left out."""
        async with asyncio.timeout(PATIENCE):
            while [kind for kind in self.heard if kind != "ping"][: len(kinds)] != list(kinds):
                self.changed.clear()
                await self.changed.wait()


class Models:
    """In place of the pool: models that are loaded and gone when the test says so."""

    def __init__(self, names: Sequence[str]) -> None:
        self.settings = SimpleNamespace(models=[SimpleNamespace(name=name) for name in names])
        self.entries = {name: Entry(name) for name in names}
        self.loaded: dict[str, Any] = {}
        self.on_change: list[Any] = []
        self.leads: dict[str, Backs] = {}

    async def load(self, name: str, vocabulary: str) -> None:
        me = identity("lead", name, vocabulary)
        decoder: Any = SimpleNamespace(speculation=VerifyAll(Limits()), inbox=Inbox())
        backs = self.leads[name] = Backs(me, Ledger(), decoder, Trace())
        port = await backs.serve("127.0.0.1", 0, Admission([TOKEN]))
        self.loaded[name] = SimpleNamespace(name=name, ready=Ready(0, port, name, me.fingerprint), token=TOKEN)
        self.entries[name].status = "loaded"
        self.change()

    async def put_away(self, name: str) -> None:
        self.entries[name].status = "stopping"
        del self.loaded[name]
        self.change()
        await self.leads.pop(name).stop()

    def change(self) -> None:
        for changed in self.on_change:
            changed()


@asynccontextmanager
async def port_of(*names: str, most: int = 8) -> AsyncIterator[tuple[Models, BackPort]]:
    models: Any = Models(names)
    port = BackPort(models)
    await port.serve("127.0.0.1", 0, Admission(backs=most))
    try:
        yield models, port
    finally:
        await port.stop()
        for backs in models.leads.values():
            await backs.stop()


@asynccontextmanager
async def joined(port: BackPort, stream: Stream) -> AsyncIterator[asyncio.Task[None]]:
    """A stream that the port serves."""
    serving: Any = stream
    task = asyncio.ensure_future(port.serve_stream(stream.requests(), serving))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
