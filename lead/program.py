"""What the lead starts, wires together and stops, in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from duo.draft.model import DraftModel, check_drafts
from duo.draft.policy import MAX_BATCH_PLACES, MAX_BATCH_ROWS, MAX_RIDERS, TREE, row_capacity
from duo.engines import Engine, measure
from duo.engines.cost import CostCurve
from duo.engines.meaning import compare
from duo.errors import AddressError, FileError, ModelError
from duo.program import flags as cli
from duo.program import mdns, models, trace_file, values
from duo.program.tls_files import Files
from duo.trace import Trace
from duo.wire.ledger import Ledger
from duo.wire.messages import Identity
from lead import target
from lead.answers.service import QUEUE, Service
from lead.api import Answer, BackView, ModelInfo, Observer, Question, SlotView
from lead.backs.admission import Admission
from lead.backs.server import Backs
from lead.chat.conversation import ChatSettings
from lead.console.console import Console
from lead.decode.local_draft import LocalDraft
from lead.decode.loop import Decoder
from lead.http.app import create_app
from lead.http.edge import connections
from lead.http.edge.auth import guarded
from lead.http.info.metrics import Metrics
from lead.http.site import Options
from lead.plan.limits import Limits
from lead.security.credentials import Access, access, how_to_join, is_loopback

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

    def backs(self) -> Sequence[BackView]:
        return self.service.backs.view() if self.service else []

    @property
    def _loaded(self) -> Service:
        if self.service is None:
            raise RuntimeError("the model is loading")
        return self.service


async def serve(args: argparse.Namespace) -> None:
    """Listen, load, answer, until cancelled."""
    with trace_file.of_lead(args.trace) as timeline:
        await _serve(args, timeline)


async def _serve(args: argparse.Namespace, timeline: Trace) -> None:
    files = Files(args.tls_cert, args.tls_key, args.tls_ca)
    files.check()
    if args.tls_ca and not args.tls_cert:
        raise FileError("--tls-ca needs --tls-cert and --tls-key: certificates of backs are for a lead with TLS")
    allowed = access(args)
    listening = _listen(args.host, args.port, "--port")
    # Better now than when the model has been loaded, and then its number can be told now.
    with _listen(args.host, args.back_port, "--back-port") as tried:
        back_port = tried.getsockname()[1]
    port = listening.getsockname()[1]
    _tell_access(args, allowed, port, back_port)
    lead = Lead()
    chat = ChatSettings(args.tool_format, args.reasoning_format, args.reasoning_budget)
    options = Options(alias=args.alias or "", slots=args.slots, metrics=args.metrics, chat=chat)
    metrics = Metrics(lead)
    server = connections.Server(_http(args, create_app(lead, options, metrics), allowed))
    http = asyncio.ensure_future(server.serve(sockets=[listening]))
    service: Service | None = None
    announcing = contextlib.AsyncExitStack()
    console = Console(args.print_mode)
    try:
        loaded = await asyncio.to_thread(target.load, args)
        engine = loaded.engine
        drafts = args.model_draft and args.policy == "tree" and loaded.speculation.speculates
        local_draft = await asyncio.to_thread(_local_draft, args, engine, loaded.limits, timeline) if drafts else None
        service = assemble(loaded, [console, metrics], timeline, local_draft, args.queue)
        timeline.title(f"lead: {engine.name} on {engine.runtime}")
        admission = Admission(allowed.tokens, files, args.max_backs, args.max_message, args.max_guesses)
        await service.backs.serve(args.host, back_port, admission)
        lead.service = service
        log.info(
            "%s on %s, %d tokens of context: %s://%s:%d for clients, port %d for backs",
            engine.name, engine.runtime, engine.context,
            "https" if files.cert else "http", values.in_url(args.host), port, back_port,
        )  # fmt: skip
        if args.announce:
            name = args.alias or engine.name
            announced = await announcing.enter_async_context(
                mdns.announced(args.host, back_port, name, bool(files.cert))
            )
            log.info("announced as %s: backs on this network find it with --lead auto", announced)
        console.watch(lead)
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
    local_draft: LocalDraft | None = None,
    queue: int = QUEUE,
) -> Service:
    """The decode loop, the backs and the service of a loaded target. To be called in the event loop."""
    ledger, vocabulary = Ledger(), it.engine.vocabulary
    decoder = Decoder(it.engine, ledger, it.speculation, timeline, local_draft)
    me = Identity("lead", it.engine.name, vocabulary.fingerprint, vocabulary.size, vocabulary.meanings)
    backs = Backs(me, ledger, decoder, timeline)
    return Service(it, decoder, backs, observers, queue)


def _http(args: argparse.Namespace, app: FastAPI, allowed: Access) -> uvicorn.Config:
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


def _tell_access(args: argparse.Namespace, allowed: Access, port: int, back_port: int) -> None:
    """What a person has to know of a lead that others can reach."""
    if is_loopback(args.host):
        return
    if not allowed.keys or not allowed.tokens:
        who = " and ".join(("clients",) * (not allowed.keys) + ("backs",) * (not allowed.tokens))
        log.warning("WARNING: --insecure: everyone who can reach %s may be one of its %s", args.host, who)
    if not args.tls_cert:
        log.warning("without TLS (--tls-cert) others on the way can read all that is said, with keys and tokens")
    for line in how_to_join(args, allowed, port, back_port):
        # Not a log line: it may hold secrets, and is there to be copied.
        print(line, file=sys.stderr, flush=True)


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
    ahead = max(1, min(limits.max_guesses, MAX_BATCH_ROWS - MAX_RIDERS))
    model = DraftModel(engine, cost, ahead, TREE, timeline, "decoder")
    model.drafts_for(served.vocabulary.size, differing)
    return LocalDraft(model)


def _listen(host: str, port: int, flag: str) -> socket.socket:
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
