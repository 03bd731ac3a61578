"""`python -m back`: runs the draft, a small language model, and guesses what the large model of a lead will say."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from back import choosing
from back.address import AUTO, BACK_PORT, address
from back.drafter import Drafter
from back.drafting import Drafting
from back.link import Link
from back.tls import ClientTls
from duo.draft.model import DraftModel, check_drafts
from duo.draft.policy import CHAIN, MAX_BATCH_PLACES, MAX_BATCH_ROWS, MAX_RIDERS, TREE, row_capacity
from duo.engines import measure
from duo.engines.cost import CostCurve
from duo.engines.meaning import Sample
from duo.errors import FileError, why_unread
from duo.program import flags as cli
from duo.program import mdns, models, run, trace_file, values
from duo.program.config import Parser
from duo.program.tls_files import Files
from duo.trace import Trace
from duo.wire.messages import Identity

log = logging.getLogger("back")


def parser() -> argparse.ArgumentParser:
    p = Parser("back", __doc__)
    model = cli.add_model_flags(p, "draft")
    model.add_argument(
        "--models-dir", metavar="FOLDER", default="",
        help="a folder of models: -m auto takes the smallest model with the target's vocabulary, from here and from "
        "the caches of Hugging Face, Ollama, LM Studio and llama.cpp",
    )  # fmt: skip
    group = p.add_argument_group("lead")
    group.add_argument(
        "--lead", type=address, default=f"localhost:{BACK_PORT}", metavar="HOST:PORT",
        help="address of the lead, which it prints when it starts; auto: look for a lead with --announce on this "
        "network",
    )  # fmt: skip
    group.add_argument("--name", default=socket.gethostname(), help="name under which the lead shows this back")
    group = p.add_argument_group("access")
    group.add_argument(
        "--token",
        type=values.secret,
        metavar="TOKEN",
        help="token that the lead asks for; the lead prints it when it has made it",
    )
    group.add_argument("--token-file", metavar="FILE", default="", help="file with the token in its first line")
    group.add_argument("--tls", action="store_true", help="encrypt with TLS, and trust the authorities of this system")
    cli.add_tls_flags(group, "if the lead asks for one: this back's", "encrypt with TLS, and trust this authority, PEM")
    group = p.add_argument_group("drafting")
    group.add_argument(
        "-na", "--n-ahead", "--n_ahead", dest="n_ahead", type=values.positive, default=16, metavar="N",
        help="how many tokens it guesses ahead of the lead, at most",
    )  # fmt: skip
    group.add_argument(
        "-np", "--parallel", type=values.positive, default=4, metavar="N",
        help="slots, which are places for answers: for how many it guesses at once; if there are more, they take turns",
    )  # fmt: skip
    group.add_argument(
        "--policy", choices=("tree", "chain"), default="tree",
        help="how it guesses. tree: several ways to go on, likeliest first. chain: one way, for comparison",
    )  # fmt: skip
    cli.add_common_flags(p)
    return p


async def draft(args: argparse.Namespace) -> None:
    """Load the model, then draft until cancelled."""
    with trace_file.of_back(args.trace, args.name) as timeline:
        await _draft(args, timeline)


def credentials(args: argparse.Namespace) -> tuple[str, ClientTls | None]:
    """The token, empty if there is none, and TLS or None. Raises FileError."""
    token = args.token or ""
    if args.token_file:
        try:
            token = values.secret((Path(args.token_file).read_text(encoding="utf-8").splitlines() or [""])[0].strip())
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"--token-file {args.token_file}: {why_unread(error)}") from None
        except argparse.ArgumentTypeError as error:
            raise FileError(f"--token-file {args.token_file}: {error}") from None
    files = Files(args.tls_cert, args.tls_key, args.tls_ca)
    files.check()
    return token, ClientTls(files) if args.tls or args.tls_ca or args.tls_cert else None


async def _chosen(args: argparse.Namespace, folder: Path | None, link: Link) -> argparse.Namespace:
    """The flags with the draft model that suits the lead best. Raises ModelError."""
    target = await link.vocabulary()
    model = await asyncio.to_thread(choosing.choose, target, folder)
    log.info("-m auto: %s is the smallest model here with the vocabulary of the lead's target", model.name)
    return argparse.Namespace(**{**vars(args), "model": str(model.path)})


async def _draft(args: argparse.Namespace, timeline: Trace) -> None:
    folder = choosing.folder(args.models_dir)
    token, tls = credentials(args)
    if tls is not None:
        tls.credentials()  # report errors before the model is loaded
    look = mdns.find if args.lead == AUTO else None
    if args.model == AUTO:
        lead = await look() if look else args.lead
        args = await _chosen(args, folder, Link(lead, Identity(args.name, "", "", 0), Trace(), token, tls, look))
    args = await asyncio.to_thread(models.located, args)
    engine = await asyncio.to_thread(models.load_engine, args, "draft", row_capacity(args.parallel), args.parallel)
    check_drafts(engine)
    log.info("%s on %s, %d tokens of context", engine.name, engine.runtime, engine.context)
    measured = await asyncio.to_thread(measure.remembered, engine, MAX_BATCH_PLACES, models.speed(args, "draft"))
    cost = CostCurve(measured.seconds)
    policy = TREE if args.policy == "tree" else CHAIN
    lead = await look() if look else args.lead
    vocabulary = engine.vocabulary
    me = Identity(args.name, engine.name, vocabulary.fingerprint, vocabulary.size, vocabulary.meanings)

    async def unsuited(target: Sample) -> None:
        log.info("%s", await asyncio.to_thread(choosing.advice, target, folder))

    link = Link(lead, me, timeline, token, tls, look, unsuited)
    model = DraftModel(engine, cost, min(args.n_ahead, MAX_BATCH_ROWS - MAX_RIDERS), policy, timeline, "drafter")
    drafting = Drafting(model, link.send, timeline, time.perf_counter)
    await link.run(Drafter(drafting, link.fail))


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return run.run(lambda: draft(args), args.verbose)


if __name__ == "__main__":
    sys.exit(main())
