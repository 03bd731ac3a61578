"""`python -m bench COMMAND`: the demonstration and the measurements."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from duo.cli import Help, positive

Run = Callable[[argparse.Namespace], int]


class Command(NamedTuple):
    """`prepare` gives a parser the command's flags and returns what runs it. It imports what the command needs, and is
    called for the command that is asked for only: the demonstration runs without llama.cpp."""

    help: str
    prepare: Callable[[argparse.ArgumentParser], Run]


def _demo(p: argparse.ArgumentParser) -> Run:
    from bench import demo

    return lambda args: demo.main()


def _step(p: argparse.ArgumentParser) -> Run:
    from bench import step

    p.add_argument("--tokens", type=positive, default=100, help="tokens per round")
    p.add_argument("--rounds", type=positive, default=24, help="rounds, in turns")
    return lambda args: step.main(args.tokens, args.rounds)


def _ties(p: argparse.ArgumentParser) -> Run:
    from bench import ties

    p.add_argument("--tokens", type=positive, default=20_000, help="tokens per engine")
    p.add_argument(
        "--past-end", action="store_true", help="go on after the end of the answers, where the model is at a loss"
    )
    return lambda args: ties.main(args.tokens, args.past_end)


def _simulate(p: argparse.ArgumentParser) -> Run:
    from bench import sweep

    sweep.add_flags(p)
    return sweep.main


def _plan(p: argparse.ArgumentParser) -> Run:
    from bench import plan

    plan.add_flags(p)
    return plan.main


def _trace(p: argparse.ArgumentParser) -> Run:
    from bench import trace

    p.add_argument("files", nargs="+", metavar="FILE", help="the lead's, and those of its backs")
    p.add_argument("-o", "--output", metavar="FILE", help="where to write all of them as one")
    return lambda args: trace.main(args.files, args.output)


def _compare(p: argparse.ArgumentParser) -> Run:
    from bench.compare import options, run

    options.add_flags(p)
    return run.main


def _build_llama_server(p: argparse.ArgumentParser) -> Run:
    from bench import peers

    return lambda args: peers.main()


def _record(p: argparse.ArgumentParser) -> Run:
    from bench import record

    record.add_flags(p)
    return record.main


def _validate(p: argparse.ArgumentParser) -> Run:
    from bench import validate

    p.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results.json of compare")
    return lambda args: validate.main(args.files)


def _load(p: argparse.ArgumentParser) -> Run:
    from bench import load

    load.add_flags(p)
    return load.main


def _chaos(p: argparse.ArgumentParser) -> Run:
    from bench import chaos

    chaos.add_flags(p)
    return chaos.main


def _soak(p: argparse.ArgumentParser) -> Run:
    from bench import soak

    soak.add_flags(p)
    return soak.main


def _screenshots(p: argparse.ArgumentParser) -> Run:
    from bench import screenshots

    p.add_argument("-o", "--output", type=Path, default=Path("docs"), metavar="FOLDER", help="where to write them")
    return lambda args: screenshots.main(args.output)


COMMANDS = {
    "demo": Command("the same questions four times, with and without a back", _demo),
    "step": Command("what the lead adds to a decode step", _step),
    "ties": Command("how often guesses change a pick", _ties),
    "simulate": Command("the planner and the policy in simulated time", _simulate),
    "plan": Command("what speed-up to expect of two machines, and where the limit is", _plan),
    "trace": Command("merge what --trace wrote, and sum it up", _trace),
    "compare": Command("ours against every other schedule of the same two models", _compare),
    "load": Command("several clients at once, with backs and without", _load),
    "chaos": Command("backs and leads that die under clients that ask, and no wrong answer", _chaos),
    "soak": Command("ten thousand requests, a thousand backs, and a lead that does not grow", _soak),
    "build-llama-server": Command("llama.cpp's own server, which compare measures us against", _build_llama_server),
    "record": Command("what a draft guesses along real answers, for simulate and plan", _record),
    "screenshots": Command("pictures of the page, the console and the chat at work", _screenshots),
    "validate": Command("how far the simulator is from runs of compare", _validate),
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    p = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=Help)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        parser = commands.add_parser(name, help=command.help, formatter_class=Help)
        if name in argv[:1]:
            parser.set_defaults(run=command.prepare(parser))
    args = p.parse_args(argv)
    run: Run = args.run
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
