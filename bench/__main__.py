"""`python -m bench COMMAND`: the demonstration and the measurements."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.compare.options import add_flags as compare_flags
from bench.plan import add_flags as plan_flags
from bench.record import add_flags as record_flags
from bench.sweep import add_flags as sweep_flags
from duo.cli import Help, positive


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=Help)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="the same questions four times, with and without a back")
    step = commands.add_parser("step", help="what the lead adds to a decode step", formatter_class=Help)
    step.add_argument("--tokens", type=positive, default=100, help="tokens per round")
    step.add_argument("--rounds", type=positive, default=24, help="rounds, in turns")
    ties = commands.add_parser("ties", help="how often guesses change a pick", formatter_class=Help)
    ties.add_argument("--tokens", type=positive, default=20_000, help="tokens per engine")
    ties.add_argument(
        "--past-end", action="store_true", help="go on after the end of the answers, where the model is at a loss"
    )
    simulate = commands.add_parser(
        "simulate", help="the planner and the policy in simulated time", formatter_class=Help
    )
    sweep_flags(simulate)
    plan = commands.add_parser(
        "plan", help="what speed-up to expect of two machines, and where the limit is", formatter_class=Help
    )
    plan_flags(plan)
    trace = commands.add_parser("trace", help="merge what --trace wrote, and sum it up", formatter_class=Help)
    trace.add_argument("files", nargs="+", metavar="FILE", help="the lead's, and those of its backs")
    trace.add_argument("-o", "--output", metavar="FILE", help="where to write all of them as one")
    versus = commands.add_parser(
        "compare", help="ours against every other schedule of the same two models", formatter_class=Help
    )
    compare_flags(versus)
    commands.add_parser("build-llama-server", help="llama.cpp's own server, which compare measures us against")
    record = commands.add_parser(
        "record", help="what a draft guesses along real answers, for simulate and plan", formatter_class=Help
    )
    record_flags(record)
    valid = commands.add_parser("validate", help="how far the simulator is from runs of compare", formatter_class=Help)
    valid.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results.json of compare")
    args = p.parse_args(argv)
    # Each command imports what it needs: the demonstration runs without llama.cpp.
    if args.command == "demo":
        from bench import demo

        return demo.main()
    if args.command == "step":
        from bench import step as decode_step

        return decode_step.main(args.tokens, args.rounds)
    if args.command == "trace":
        from bench import trace as timelines

        return timelines.main(args.files, args.output)
    if args.command == "compare":
        from bench.compare import run as comparison

        return comparison.main(args)
    if args.command == "build-llama-server":
        from bench import peers

        return peers.main()
    if args.command == "simulate":
        from bench import sweep

        return sweep.main(args)
    if args.command == "record":
        from bench import record as recording

        return recording.main(args)
    if args.command == "validate":
        from bench import validate

        return validate.main(args.files)
    if args.command == "plan":
        from bench import plan as expected

        return expected.main(args)
    from bench import ties as near_ties

    return near_ties.main(args.tokens, args.past_end)


if __name__ == "__main__":
    sys.exit(main())
