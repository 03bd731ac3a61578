"""What the lead starts, wires together and stops, in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duo.draft.model import DraftModel, check_drafts
from duo.draft.policy import MAX_BATCH_PLACES, MAX_BATCH_ROWS, MAX_RIDERS, TREE, row_capacity
from duo.engines import Engine, load_head, measure
from duo.engines.cost import CostCurve
from duo.engines.meaning import compare
from duo.errors import ModelError
from duo.program import flags as cli
from duo.program import models, trace_file
from duo.trace import Trace
from duo.wire.ledger import Ledger
from duo.wire.messages import Identity
from lead import network, saving, target
from lead.answers.service import QUEUE, Service
from lead.api import Answer, BackView, Benefit, CacheView, ModelInfo, Observer, Question, SlotFile, SlotView
from lead.backs.admission import Admission
from lead.backs.server import Backs
from lead.chat.conversation import ChatSettings
from lead.console.console import Console
from lead.decode.heads import Heads
from lead.decode.local_draft import LocalDraft
from lead.decode.loop import Decoder
from lead.decode.memory import Memory
from lead.decode.sources import Sources
from lead.flags import sampling_flags
from lead.http.app import create_app
from lead.http.edge import connections
from lead.http.info.metrics import Metrics
from lead.http.site import Options
from lead.plan.limits import Limits
from lead.security.credentials import access
from lead.security.joining import http_address, joining

log = logging.getLogger("lead")


class Lead:
    """The `Answerer` of the HTTP side: there from the start, ready once the model is loaded."""

    service: Service | None = None

    @property
    def ready(self) -> bool:
        return self.service is not None

    @property
    def info(self) -> ModelInfo:
        return self._loaded.info

    @property
    def waiting(self) -> int:
        return self._loaded.waiting

    def slots(self) -> Sequence[SlotView]:
        return self._loaded.slots()

    def ask(self, question: Question) -> Answer:
        return self._loaded.ask(question)

    @property
    def cache(self) -> CacheView:
        return self._loaded.cache

    async def save_slot(self, slot: int, filename: str) -> SlotFile:
        return await self._loaded.slot_files.save(slot, filename)

    async def restore_slot(self, slot: int, filename: str) -> SlotFile:
        return await self._loaded.slot_files.restore(slot, filename)

    async def erase_slot(self, slot: int) -> int:
        return await self._loaded.slot_files.erase(slot)

    def backs(self) -> Sequence[BackView]:
        return self.service.backs.view() if self.service else []

    @property
    def benefit(self) -> Benefit | None:
        return self._loaded.benefit

    @property
    def _loaded(self) -> Service:
        if self.service is None:
            raise RuntimeError("the model is loading")
        return self.service


@dataclass(frozen=True)
class Ready:
    """What a lead can say of itself once it answers: its ports, and the vocabulary that its backs need."""

    port: int
    back_port: int
    model: str
    fingerprint: str


async def serve(args: argparse.Namespace, on_ready: Callable[[Ready], None] | None = None) -> None:
    """Listen, load, answer, until cancelled. `on_ready` hears of the moment when it can answer."""
    with trace_file.of_lead(args.trace) as timeline:
        await _serve(args, timeline, on_ready)


async def _serve(args: argparse.Namespace, timeline: Trace, on_ready: Callable[[Ready], None] | None) -> None:
    files = network.tls_files(args)
    saving.check(args)
    allowed = access(args)
    network.check_ports(args)
    listening = network.listen(args.host, args.port, "--port")
    # Better now than when the model has been loaded, and then its number can be told now.
    with network.listen(args.host, args.back_port, "--back-port") as tried:
        back_port = tried.getsockname()[1]
    port = listening.getsockname()[1]
    network.tell_access(args, allowed, joining(args, allowed, port, back_port, secrets=True))
    lead = Lead()
    options = Options(
        alias=args.alias or "",
        slots=args.slots,
        metrics=args.metrics,
        chat=ChatSettings(args.tool_format, args.reasoning_format, args.reasoning_budget),
        slot_files=bool(args.slot_save_path),
        sampling=sampling_flags(args),
        joining=joining(args, allowed, port, back_port),
    )
    metrics = Metrics(lead)
    server = connections.Server(network.http(args, create_app(lead, options, metrics), allowed))
    http = asyncio.ensure_future(server.serve(sockets=[listening]))
    service: Service | None = None
    announcing = contextlib.AsyncExitStack()
    console = Console(args.print_mode)
    try:
        args = await asyncio.to_thread(models.located, args)
        loaded = await asyncio.to_thread(target.load, args)
        engine = loaded.engine
        sources = await asyncio.to_thread(_sources, args, loaded, timeline)
        kept = await asyncio.to_thread(saving.of_flags, args, engine)
        service = assemble(loaded, [console, metrics], timeline, sources, args.queue, kept)
        timeline.title(f"lead: {engine.name} on {engine.runtime}")
        backs = args.max_backs if "backs" in args.speculation else 0
        admission = Admission(allowed.tokens, files, backs, args.max_message, args.max_guesses)
        # For one who is told at the end, any free port will do. The one that was free may be taken by now.
        back_port = await service.backs.serve(args.host, 0 if on_ready else back_port, admission)
        lead.service = service
        log.info(
            "%s on %s, %d tokens of context: %s for clients, port %d for backs",
            engine.name, engine.runtime, engine.context, http_address(args, port), back_port,
        )  # fmt: skip
        await announcing.enter_async_context(network.announced(args, back_port, args.alias or engine.name))
        console.watch(lead)
        if on_ready is not None:
            on_ready(Ready(port, back_port, engine.name, engine.vocabulary.fingerprint))
        await http
    finally:
        await announcing.aclose()
        server.should_exit = True
        await console.stop()
        if service is not None:
            await service.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await http
        log.info("stopped")


def assemble(
    it: target.Target,
    observers: Sequence[Observer],
    timeline: Trace,
    sources: Sources = Sources(),  # noqa: B008 - it is frozen
    queue: int = QUEUE,
    kept: saving.Saving = saving.NOTHING,
) -> Service:
    """The decode loop, the backs and the service of a loaded target. To be called in the event loop.

    `sources`: what guesses in the lead itself. `kept`: what is saved of slots.
    """
    ledger, vocabulary = Ledger(), it.engine.vocabulary
    decoder = Decoder(it.engine, ledger, it.speculation, timeline, sources, kept.cache_bytes)
    me = Identity("lead", it.engine.name, vocabulary.fingerprint, vocabulary.size, vocabulary.meanings, it.model_bytes)
    backs = Backs(me, ledger, decoder, timeline)
    return Service(it, decoder, backs, observers, queue, kept.files, kept.answers)


def _sources(args: argparse.Namespace, loaded: target.Target, timeline: Trace) -> Sources:
    """What guesses in this lead. Raises ModelError for a draft model that does not fit."""
    if not loaded.speculation.speculates or args.policy != "tree":
        return Sources()
    drafts = args.model_draft and "draft" in args.speculation
    draft = _local_draft(args, loaded.engine, loaded.limits, timeline) if drafts else None
    heads = _heads(args, loaded) if "heads" in args.speculation else None
    return Sources(draft, Memory() if "memory" in args.speculation else None, heads)


def _heads(args: argparse.Namespace, loaded: target.Target) -> Heads | None:
    """The head of the target, if it has one. Raises ModelError for one that was asked for and cannot be used."""
    engine = loaded.engine
    try:
        head = load_head(engine, args.speculator)
    except ModelError as error:
        if args.speculator:
            raise
        log.warning("%s", error)
        return None
    if head is None:
        return None
    log.info("%s guesses for %s", head.name, engine.name)
    return Heads(head, engine.vocabulary, loaded.limits.max_guesses)


def _local_draft(args: argparse.Namespace, served: Engine, limits: Limits, timeline: Trace) -> LocalDraft:
    """The draft model beside the target. Raises ModelError."""
    flags = cli.of_draft_model(args, served.context)
    engine = models.load_engine(flags, "draft", row_capacity(args.parallel), args.parallel)
    differing: Sequence[int] = ()
    if engine.vocabulary.fingerprint != served.vocabulary.fingerprint:
        comparison = compare(served.vocabulary.meanings, engine.vocabulary.meanings)
        if not comparison.few:
            raise ModelError(
                f"{engine.name} cannot draft for {served.name}: its vocabulary is another one, {comparison}; choose "
                "another --model-draft"
            )
        differing = comparison.tokens
        log.info("%s drafts for %s: %s", engine.name, served.name, comparison)
    if engine.runtime == served.runtime == "transformers" and flags.threads != args.threads:
        raise ModelError("--threads-draft: target and draft both run on transformers, which has one number of threads")
    check_drafts(engine)
    cost = CostCurve(measure.remembered(engine, MAX_BATCH_PLACES, models.speed(flags, "draft")).seconds)
    log.info("%s on %s drafts here", engine.name, engine.runtime)
    ahead = max(1, min(limits.of_models, MAX_BATCH_ROWS - MAX_RIDERS))
    model = DraftModel(engine, cost, ahead, TREE, timeline, "decoder")
    model.drafts_for(served.vocabulary.size, differing)
    return LocalDraft(model)
