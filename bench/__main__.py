"""`python -m bench COMMAND`: the demonstration and the measurements."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NamedTuple

from duo.errors import DuoError
from duo.program.config import Help


class Command(NamedTuple):
    """module: has `add_flags`, and `main`, which returns the exit code.

    Only the module of the command that is asked for is imported: the demonstration runs without llama.cpp.
    """

    help: str
    module: str


COMMANDS = {
    "demo": Command("asks the same questions four times, with and without a back", "bench.show.demo"),
    "step": Command("what the lead adds to a decode step", "bench.steps.step"),
    "writers": Command("what each API adds to a streamed token, without sockets", "bench.steps.writers"),
    "plain": Command("decoding without a back, beside llama-server without speculation", "bench.compare.plain"),
    "exact": Command("what --exact on costs, without a back and with one", "bench.compare.exactness"),
    "hybrid": Command("what chains cost and gain on a model with a recurrent state", "bench.compare.hybrid"),
    "slots": Command("what rows of many slots cost, beside as many rows of one slot", "bench.steps.slots"),
    "ties": Command(
        "how many tokens of an answer change with backs, cache and other answers", "bench.steps.changed_tokens"
    ),
    "models": Command("serves tiny random models of many kinds, and compares with transformers", "bench.kinds.run"),
    "simulate": Command("the planner and the policy in simulated time", "bench.sim.sweep"),
    "plan": Command("which speed-up to expect of two machines, and where the limit is", "bench.sim.plan"),
    "curve": Command("what a model's forward passes take here, as plan and match read it", "bench.sim.curve"),
    "trace": Command("merges the files that --trace wrote, and sums them up", "bench.show.trace"),
    "compare": Command("ours against every other schedule of the same two models", "bench.compare.run"),
    "figure": Command("whether the speed-up that the lead names is the one that is measured", "bench.compare.named"),
    "load": Command("several clients at once, with backs and without", "bench.load.load"),
    "chaos": Command("backs and leads die while clients ask, and no answer is wrong", "bench.load.chaos"),
    "soak": Command("ten thousand requests, a thousand backs, and a lead that does not grow", "bench.load.soak"),
    "build-llama-server": Command(
        "builds llama.cpp's own server, which compare measures ours against", "bench.compare.llama_server"
    ),
    "record": Command("records what a draft guesses along real answers, for simulate and plan", "bench.sim.record"),
    "screenshots": Command("pictures of the page, the console and the chat at work", "bench.show.screenshots"),
    "validate": Command("how far the simulator is from real runs of compare", "bench.sim.validate"),
}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    p = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=Help)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        parser = commands.add_parser(name, help=command.help, formatter_class=Help)
        if name in argv[:1]:
            module = import_module(command.module)
            module.add_flags(parser)
            parser.set_defaults(run=module.main)
    args = p.parse_args(argv)
    # SIGTERM acts as Ctrl-C, so that a command ends the processes that it has started.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(args.run(args))
    except DuoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
