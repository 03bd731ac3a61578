"""`python -m back`: run a draft model on this machine and keep guessing ahead for a lead."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Sequence

from back.link import Link
from duo import cli, trace
from duo.cost import CostCurve
from duo.drafting import BATCH, CHAIN, TREE, room
from duo.engines import curve
from duo.trace import Trace

log = logging.getLogger("back")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="back", description=__doc__, formatter_class=cli.Help)
    cli.add_model_flags(p, "draft")
    group = p.add_argument_group("lead")
    group.add_argument("--lead", type=address, default="localhost:5556", metavar="HOST:PORT", help="where the lead is")
    group.add_argument("--name", default=socket.gethostname(), help="how the lead shows this back")
    group = p.add_argument_group("drafting")
    group.add_argument(
        "-na", "--n-ahead", "--n_ahead", dest="n_ahead", type=cli.positive, default=16, metavar="N",
        help="most unverified tokens in one line",
    )  # fmt: skip
    group.add_argument(
        "-np", "--parallel", type=cli.positive, default=4, metavar="N",
        help="slots: answers whose tokens are held at once; where there are more, they take turns",
    )  # fmt: skip
    group.add_argument(
        "--policy", choices=("tree", "chain"), default="tree",
        help="grow a tree, likeliest first; or, for comparison, one line of the likeliest tokens",
    )  # fmt: skip
    cli.add_common_flags(p)
    return p


def address(text: str) -> str:
    """For argparse: HOST or HOST:PORT."""
    host, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, number = text, "5556"
    try:
        return f"{host}:{cli.port(number)}"
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT") from None


async def draft(args: argparse.Namespace) -> None:
    """Load, then draft until cancelled."""
    with trace.of_back(args.trace, args.name) as timeline:
        await _draft(args, timeline)


async def _draft(args: argparse.Namespace, timeline: Trace) -> None:
    engine = await asyncio.to_thread(cli.load_engine, args, "draft", room(args.parallel), args.parallel)
    log.info("%s on %s, %d tokens of context", engine.name, engine.runtime, engine.context)
    cost = CostCurve(await asyncio.to_thread(curve.remembered, engine, BATCH, cli.speed(args, engine)))
    policy = TREE if args.policy == "tree" else CHAIN
    await Link(args.lead, args.name, engine, cost, args.n_ahead, policy, timeline).run()


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return cli.run(lambda: draft(args), args.verbose)


if __name__ == "__main__":
    sys.exit(main())
