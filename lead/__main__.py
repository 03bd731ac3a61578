"""`python -m lead`: serve the target model over HTTP, and take guesses from backs over gRPC."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence

import uvicorn

from duo import cli, trace
from duo.cost import CostCurve
from duo.draft_model import DraftModel
from duo.drafting import BATCH, MOST, RIDERS, TREE, room
from duo.engines import Engine, Vocabulary, curve
from duo.errors import AddressError, ModelError
from duo.planner import Everything, Limits, Planner
from duo.trace import Trace
from lead.answers import Answer, BackView, Question, SlotView
from lead.console import Console
from lead.http import create_app
from lead.own import OwnDraft
from lead.service import Service

log = logging.getLogger("lead")

TREE_ROWS = 32
"""Room for the rows of one verification; llama.cpp's time per forward pass grows with it."""


class Lead:
    """The `Answerer` of the HTTP side: there from the start, ready once the model is loaded."""

    def __init__(self) -> None:
        self.service: Service | None = None

    @property
    def ready(self) -> bool:
        return self.service is not None

    @property
    def model(self) -> str:
        return self._loaded.model

    @property
    def created(self) -> int:
        return self._loaded.created

    @property
    def runtime(self) -> str:
        return self._loaded.runtime

    @property
    def context(self) -> int:
        return self._loaded.context

    @property
    def vocabulary(self) -> Vocabulary:
        return self._loaded.vocabulary

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


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the program has them."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="lead", description=__doc__, formatter_class=cli.Help)
    cli.add_model_flags(p, "target")
    group = p.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on, for clients and for backs")
    group.add_argument("--port", type=cli.port, default=5555, metavar="N", help="HTTP port for clients")
    group.add_argument("--back-port", type=cli.port, default=5556, metavar="N", help="gRPC port for backs")
    group = p.add_argument_group("serving")
    group.add_argument(
        "-np", "--parallel", type=cli.positive, default=4, metavar="N", help="slots: answers that are generated at once"
    )
    group.add_argument(
        "--queue", type=cli.count, default=64, metavar="N", help="most questions that wait for a slot; more get a 503"
    )
    group = p.add_argument_group("speculation")
    group.add_argument(
        "--policy", choices=("tree", "chain"), default="tree",
        help="verify what pays and wait where that pays; or, for comparison, verify all that is there and never wait",
    )  # fmt: skip
    group.add_argument(
        "--draft-max", "--draft", type=cli.count, default=Limits().draft_max, metavar="N",
        help="most guesses verified in one forward pass; 0: none",
    )  # fmt: skip
    group.add_argument(
        "--draft-min", type=cli.count, default=Limits().draft_min, metavar="N",
        help="fewest guesses worth a forward pass with guesses",
    )  # fmt: skip
    group.add_argument(
        "--draft-p-min", type=cli.probability, default=Limits().p_min, metavar="P",
        help="least probability of a guess that is verified",
    )  # fmt: skip
    cli.add_draft_model_flags(group)
    group.add_argument(
        "--exact", action="store_true",
        help="chains, not trees, and no token alone: llama.cpp then computes the same bits with backs and without",
    )  # fmt: skip
    group = p.add_argument_group("console")
    group.add_argument(
        "--print-mode", "--print_mode", choices=("none", "accepted", "all"), default="accepted",
        help="show nothing, the text with accepted guesses in green, or rejected ones too",
    )  # fmt: skip
    cli.add_common_flags(p)
    return p


async def serve(args: argparse.Namespace) -> None:
    """Listen, load, answer, until cancelled."""
    with trace.of_lead(args.trace) as timeline:
        await _serve(args, timeline)


async def _serve(args: argparse.Namespace, timeline: Trace) -> None:
    listening = _listen(args.host, args.port, "--port")
    if args.back_port:
        # Better now than when the model has been loaded.
        _listen(args.host, args.back_port, "--back-port").close()
    lead = Lead()
    server = _Server(
        uvicorn.Config(create_app(lead), log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=1)
    )
    http = asyncio.ensure_future(server.serve(sockets=[listening]))
    service: Service | None = None
    console = Console(args.print_mode)
    try:
        rows = max(TREE_ROWS, args.draft_max + 2, 2 * args.parallel)
        engine = await asyncio.to_thread(cli.load_engine, args, "target", rows, args.parallel)
        rows = min(rows, engine.batch)
        limits = Limits(min(args.draft_max, rows - 1), args.draft_min, args.draft_p_min, rows)
        speed = cli.speed(args, engine)
        widths = min(rows, max(1 + limits.draft_max, 2 * args.parallel))
        cost = CostCurve(await asyncio.to_thread(curve.remembered, engine, widths, speed))
        schedule = Planner(cost, limits) if args.policy == "tree" else Everything(limits)
        drafts = args.model_draft and args.policy == "tree"
        own = await asyncio.to_thread(_own_draft, args, engine, limits, timeline) if drafts else None
        service = Service(engine, console, schedule, args.exact, timeline, own, args.queue)
        timeline.title(f"lead: {engine.name} on {engine.runtime}")
        back_port = await service.backs.serve(args.host, args.back_port)
        lead.service = service
        log.info(
            "%s on %s, %d tokens of context: http://%s:%d for clients, port %d for backs",
            engine.name, engine.runtime, engine.context, args.host, listening.getsockname()[1], back_port,
        )  # fmt: skip
        console.watch(lead)
        await http
    finally:
        server.should_exit = True
        await console.stop()
        if service is not None:
            await service.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await http
        log.info("stopped")


def _own_draft(args: argparse.Namespace, target: Engine, limits: Limits, timeline: Trace) -> OwnDraft:
    """The draft model beside the target. Raises ModelError."""
    flags = cli.of_draft_model(args)
    engine = cli.load_engine(flags, "draft", room(args.parallel), args.parallel)
    if engine.vocabulary.fingerprint != target.vocabulary.fingerprint:
        raise ModelError(
            f"{engine.name} cannot draft for {target.name}: its vocabulary is another one; choose another --model-draft"
        )
    if engine.runtime == target.runtime == "transformers" and flags.threads != args.threads:
        raise ModelError("--threads-draft: target and draft both run on transformers, which has one number of threads")
    cost = CostCurve(curve.remembered(engine, BATCH, cli.speed(flags, engine)))
    log.info("%s on %s drafts here", engine.name, engine.runtime)
    return OwnDraft(DraftModel(engine, cost, max(1, min(limits.draft_max, MOST - RIDERS)), TREE, timeline, "decoder"))


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


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return cli.run(lambda: serve(args), args.verbose)


if __name__ == "__main__":
    sys.exit(main())
