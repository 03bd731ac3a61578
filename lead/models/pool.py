"""The models and their processes: carries out what the registry decides. Lives in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from lead.http.errors import ModelUnavailableError
from lead.models.process import LoadError, Process, Worker
from lead.models.registry import Entry, Registry, Ticket
from lead.models.settings import ModelSettings, Settings
from lead.program import Ready

log = logging.getLogger("lead")

NO_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that can answer. `http`: a client of its own lead, with the key."""

    name: str
    ready: Ready
    token: str
    http: httpx2.AsyncClient
    gone: asyncio.Event
    """Its process has ended."""


class Claim:
    """A request's claim on a model, from its arrival to the end of its answer."""

    def __init__(self, pool: Pool, ticket: Ticket) -> None:
        self._pool = pool
        self.ticket = ticket
        self.decided = asyncio.Event()
        """The model can answer, or will not."""

    @property
    def waits(self) -> bool:
        return not self.decided.is_set()

    async def loaded(self) -> Loaded:
        """The model, once it can answer. Raises ModelUnavailableError."""
        await self.decided.wait()
        name = self.ticket.model
        if self.ticket.state == "refused":
            raise ModelUnavailableError(f"{name} cannot be loaded: {self.ticket.reason}")
        if (loaded := self._pool.loaded.get(name)) is None:
            raise ModelUnavailableError(self._pool.why_gone(name))
        return loaded


class Pool:
    def __init__(
        self,
        settings: Settings,
        spawn: Callable[[ModelSettings], Worker] = Process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._spawn = spawn
        self._clock = clock
        self._registry = Registry(
            {model.name: model.ttl for model in settings.models}, settings.max_loaded, settings.load_seconds
        )
        self._claims: dict[Ticket, Claim] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        """By model, its process from start to end."""
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False
        self.loaded: dict[str, Loaded] = {}
        self.on_change: list[Callable[[], None]] = []
        """Called after a model was loaded or is gone, and after requests came and went."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The models as the registry knows them. Not to be changed."""
        return self._registry.entries

    def start(self) -> None:
        """Load what the settings want at the start."""
        for name in self.settings.preload:
            self._registry.want(name)
        self._step()

    async def stop(self) -> None:
        """End all processes."""
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
        lives = list(self._lives.values())
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[Claim]:
        """A claim on a model, which loads it if need be."""
        ticket = self._registry.ask(name, self._clock())
        claim = self._claims[ticket] = Claim(self, ticket)
        self._step()
        try:
            yield claim
        finally:
            self._registry.leave(ticket, self._clock())
            self._claims.pop(ticket, None)
            self._step()

    def want(self, name: str) -> None:
        """Load a model that nobody asks yet."""
        self._registry.want(name)
        self._step()

    def put_away(self, name: str) -> None:
        """Put a model away once its answers have ended."""
        self._registry.put_away(name)
        self._step()

    def why_gone(self, name: str) -> str:
        """One line about a model whose process has ended."""
        reason = self.entries[name].reason or "it was put away"
        return f"{name} cannot answer: {reason}; the next request loads it again"

    def _step(self) -> None:
        if self._ending:
            return
        now, loop = self._clock(), asyncio.get_running_loop()
        decided = self._registry.step(now)
        for name, why in decided.stop.items():
            log.info("%s is put away: %s", name, why)
            # Not at once: a task that is cancelled before it begins never runs, and would not tell of its end.
            loop.call_soon(self._lives[name].cancel)
        for name in decided.start:
            log.info("%s is loading", name)
            self._lives[name] = asyncio.ensure_future(self._live(name))
        for ticket in decided.tickets:
            if (claim := self._claims.get(ticket)) is not None:
                claim.decided.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (at := self._registry.next_at()) < float("inf"):
            self._timer = loop.call_later(max(0.0, at - now), self._step)
        for changed in self.on_change:
            changed()

    async def _live(self, name: str) -> None:
        """One process, from its start to its end. It ends early if this task is cancelled."""
        model = next(model for model in self.settings.models if model.name == name)
        worker, began = self._spawn(model), self._clock()
        reason, own = "", False
        gone = asyncio.Event()
        try:
            ready = await worker.load()
            log.info("%s can answer, after %.1f s", name, self._clock() - began)
            async with _client(ready, worker.key) as http:
                self.loaded[name] = Loaded(name, ready, worker.token, http, gone)
                self._registry.loaded(name, self._clock())
                self._step()
                reason = await worker.ended()
        except LoadError as error:
            reason, own = str(error), error.own
        except asyncio.CancelledError:
            reason = ""  # `_step` or `stop` has said why
        except Exception:
            log.exception("the process of %s could not be followed", name)
            reason, own = "the lead failed in a way it does not know: its log says more", True
        self.loaded.pop(name, None)
        if reason:
            log.warning("%s: %s", name, reason)
        await _to_the_end(worker.stop())
        self._registry.ended(name, self._clock(), reason, own)
        gone.set()
        self._step()


def _client(ready: Ready, key: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{ready.port}", headers={"Authorization": f"Bearer {key}"}, limits=NO_LIMITS,
        timeout=None, trust_env=False,
    )  # fmt: skip


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do all of it, even if this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
