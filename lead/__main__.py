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
from fastapi import FastAPI

from duo import trace
from duo.draft.draft import BATCH, MOST, RIDERS, TREE, room
from duo.draft.model import DraftModel, check_drafts
from duo.engines import Engine, Vocabulary, measure, promise
from duo.engines.cost import CostCurve
from duo.engines.meaning import compare
from duo.errors import AddressError, FileError, ModelError
from duo.program import flags as cli
from duo.program import mdns
from duo.program.tls_files import Files
from duo.trace import Trace
from duo.wire.lead_side import LEAST_MESSAGE_BYTES
from lead import target
from lead.answers.service import Service
from lead.api import Answer, BackView, Question, SlotView
from lead.backs.access import Door
from lead.console.console import Console
from lead.decode.local_draft import OwnDraft
from lead.http import BODY_LIMIT, Options
from lead.http.edge import connections
from lead.http.edge.auth import guarded
from lead.http.site import create_site
from lead.plan.schedule import Limits
from lead.security import certs
from lead.security.credentials import Access, access, how_to_join, is_loopback

log = logging.getLogger("lead")

SLOTS = 4


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
    def speculates(self) -> bool:
        return self._loaded.speculates

    @property
    def exactness(self) -> str:
        return self._loaded.exactness

    @property
    def context(self) -> int:
        return self._loaded.context

    @property
    def vocabulary(self) -> Vocabulary:
        return self._loaded.vocabulary

    @property
    def waiting(self) -> int:
        return self._loaded.waiting

    @property
    def most(self) -> int:
        return self._loaded.most

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


def parser() -> argparse.ArgumentParser:
    p = cli.parser("lead", __doc__)
    cli.add_model_flags(p, "target")
    group = p.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on, for clients and for backs")
    group.add_argument("--port", type=cli.port, default=5555, metavar="N", help="HTTP port for clients")
    group.add_argument("--back-port", type=cli.port, default=5556, metavar="N", help="gRPC port for backs")
    group.add_argument("--announce", action="store_true", help="let backs with --lead auto find this lead (mDNS)")
    group.add_argument(
        "--cors-origin", "--cors-origins", action="append", default=[], metavar="ORIGIN",
        help="let pages from there ask in a browser, such as http://localhost:3000, or * for all (also several; "
        "default: none)",
    )  # fmt: skip
    group.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME",
        help="without a key, answer those too who call this host so, as a proxy before it may (also several; "
        "default: localhost, addresses and --host)",
    )  # fmt: skip
    _add_access_flags(p.add_argument_group("access"))
    _add_limit_flags(p.add_argument_group("limits"))
    group = p.add_argument_group("serving")
    group.add_argument("-a", "--alias", metavar="NAME", help="name of the model for clients (default: its own)")
    group.add_argument("--metrics", action="store_true", help="serve GET /metrics for Prometheus")
    group.add_argument(
        "--slots", action=argparse.BooleanOptionalAction, default=True,
        help="serve GET /slots: what is being answered (default: yes)",
    )  # fmt: skip
    group.add_argument(
        "-np", "--parallel", type=_slots, default=SLOTS, metavar="N", help="slots: answers that are generated at once"
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
        "--draft-max", "--draft", "--draft-n", "--spec-draft-n-max", type=cli.count, default=Limits().draft_max,
        metavar="N", help="most guesses of an answer verified in one forward pass; 0: none",
    )  # fmt: skip
    group.add_argument(
        "--draft-min", "--draft-n-min", "--spec-draft-n-min", type=cli.count, default=Limits().draft_min, metavar="N",
        help="fewest guesses worth a forward pass with guesses",
    )  # fmt: skip
    group.add_argument(
        "--draft-p-min", "--spec-draft-p-min", type=cli.probability, default=Limits().p_min, metavar="P",
        help="least probability of a guess that is verified",
    )  # fmt: skip
    cli.add_draft_model_flags(group)
    group.add_argument(
        "--exact", type=_mode, nargs="?", const="on", default="auto", metavar="{on,off,auto}",
        help="the same bits for the same text, with backs or none, however many answers: chains, and passes of one "
        "class of widths; auto: where that costs at most 3 %% by what was measured",
    )  # fmt: skip
    group = p.add_argument_group("console")
    group.add_argument(
        "--print-mode", "--print_mode", choices=("none", "accepted", "all"), default="accepted",
        help="show nothing, the text with accepted guesses in green, or rejected ones too",
    )  # fmt: skip
    cli.add_common_flags(p)
    return p


def _mode(text: str) -> promise.Mode:
    """For argparse: of --exact, which was a switch once and may be one in a file."""
    word = text.lower()
    if word in ("on", "true", "yes", "1"):
        return "on"
    if word in ("off", "false", "no", "0"):
        return "off"
    if word == "auto":
        return "auto"
    raise argparse.ArgumentTypeError(f"{text!r} is none of on, off and auto")


def _slots(text: str) -> int:
    """For argparse: -1, which with llama-server leaves it to the server, or how many."""
    return SLOTS if text == "-1" else cli.positive(text)


def _add_access_flags(group: argparse._ArgumentGroup) -> None:
    group.description = (
        "On a loopback address nothing is needed. On any other a key and a token are, and those that are not given are "
        "made and printed. `python -m lead certs --help` says how to come by certificates."
    )
    group.add_argument(
        "--api-key",
        action="append",
        type=cli.secret,
        metavar="KEY",
        help="what clients need (again, or with commas, for several)",
    )
    group.add_argument("--api-key-file", metavar="FILE", default="", help="file with API keys, one per line")
    group.add_argument(
        "--token", action="append", type=cli.secret, metavar="TOKEN", help="what backs need (also several)"
    )
    group.add_argument("--token-file", metavar="FILE", default="", help="file with tokens, one per line")
    group.add_argument("--insecure", action="store_true", help="need neither, whatever the address")
    cli.add_tls_flags(group, "speak TLS on both ports: its", "take only backs with a certificate of this authority")


def _message_bytes(text: str) -> int:
    """For argparse: bytes that a proper message of a back fits into."""
    value = cli.positive(text)
    if value < LEAST_MESSAGE_BYTES:
        raise argparse.ArgumentTypeError(f"{text} is too few: messages of a back need up to {LEAST_MESSAGE_BYTES}")
    return value


def _add_limit_flags(group: argparse._ArgumentGroup) -> None:
    http, door = connections.Limits(), Door()
    for flag, kind, default, what in (
        ("--max-body", cli.positive, BODY_LIMIT, "bytes in the body of a request"),
        ("--max-connections", cli.positive, http.connections, "HTTP connections"),
        ("--max-connections-per-address", cli.positive, http.per_address, "HTTP connections of one client"),
        ("--head-timeout", cli.seconds, http.head_seconds, "seconds for the head of a request to arrive"),
        ("--body-timeout", cli.seconds, http.body_seconds, "seconds for its body to arrive"),
        ("--keep-alive", cli.positive, 15, "seconds that an idle HTTP connection is kept"),
        ("--max-backs", cli.positive, door.backs, "backs"),
        ("--max-message", _message_bytes, door.message_bytes, "bytes in a message of a back"),
        ("--max-guesses", cli.positive, door.guesses, "guesses of a back in a second, on average; the rest is dropped"),
    ):
        group.add_argument(flag, type=kind, default=default, metavar="N", help=f"most {what}")


async def serve(args: argparse.Namespace) -> None:
    """Listen, load, answer, until cancelled."""
    with trace.of_lead(args.trace) as timeline:
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
    options = Options(alias=args.alias or "", slots=args.slots, metrics=args.metrics, max_body=args.max_body)
    server = connections.Server(_http(args, create_site(lead, options), allowed))
    http = asyncio.ensure_future(server.serve(sockets=[listening]))
    service: Service | None = None
    announcing = contextlib.AsyncExitStack()
    console = Console(args.print_mode)
    try:
        engine, limits, schedule, exactness = await asyncio.to_thread(target.load, args)
        drafts = args.model_draft and args.policy == "tree" and schedule.speculates
        own = await asyncio.to_thread(_own_draft, args, engine, limits, timeline) if drafts else None
        service = Service(engine, console, schedule, exactness, timeline, own, args.queue)
        timeline.title(f"lead: {engine.name} on {engine.runtime}")
        door = Door(allowed.tokens, files, args.max_backs, args.max_message, args.max_guesses)
        await service.backs.serve(args.host, back_port, door)
        lead.service = service
        log.info(
            "%s on %s, %d tokens of context: %s://%s:%d for clients, port %d for backs",
            engine.name, engine.runtime, engine.context,
            "https" if files.cert else "http", cli.in_url(args.host), port, back_port,
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


def _http(args: argparse.Namespace, app: FastAPI, allowed: Access) -> uvicorn.Config:
    """The app with all that stands before it."""
    names = None if args.insecure else [name.lower() for name in (args.host, *cli.several(args.allowed_host))]
    limits = connections.Limits(
        args.max_connections, args.max_connections_per_address, args.head_timeout, args.body_timeout
    )
    return uvicorn.Config(
        guarded(app, allowed.keys, args.max_body, cli.several(args.cors_origin), names),
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


def _own_draft(args: argparse.Namespace, served: Engine, limits: Limits, timeline: Trace) -> OwnDraft:
    """The draft model beside the target. Raises ModelError."""
    flags = cli.of_draft_model(args, served.context)
    engine = cli.load_engine(flags, "draft", room(args.parallel), args.parallel)
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
    cost = CostCurve(measure.remembered(engine, BATCH, cli.speed(flags, "draft")).seconds)
    log.info("%s on %s drafts here", engine.name, engine.runtime)
    ahead = max(1, min(limits.most, MOST - RIDERS))
    model = DraftModel(engine, cost, ahead, TREE, timeline, "decoder")
    model.drafts_for(served.vocabulary.size, differing)
    return OwnDraft(model)


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
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["certs"]:
        return certs.main(given[1:])
    args = parser().parse_args(given)
    return cli.run(lambda: serve(args), args.verbose)


if __name__ == "__main__":
    sys.exit(main())
