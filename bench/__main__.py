"""`python -m bench COMMAND`: the demonstration and the measurements."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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
    simulate.add_argument("--tokens", type=positive, default=2000, help="tokens per cell")
    simulate.add_argument("--iid", action="store_true", help="the same confidence at every position")
    args = p.parse_args(argv)
    # Each command imports what it needs: the demonstration runs without llama.cpp.
    if args.command == "demo":
        from bench import demo

        return demo.main()
    if args.command == "step":
        from bench import step as decode_step

        return decode_step.main(args.tokens, args.rounds)
    if args.command == "simulate":
        from bench import simulate as simulator

        return simulator.main(args.tokens, args.iid)
    from bench import ties as near_ties

    return near_ties.main(args.tokens, args.past_end)


if __name__ == "__main__":
    sys.exit(main())
