"""The command line of `python -m lead match`."""

from __future__ import annotations

import argparse
from pathlib import Path

from duo.program import flags, values
from duo.program.config import Help
from lead.simulation import curves

ABOUT = "Which draft model fits a target, and how much faster it would make it. Both are measured on this machine."
EPILOG = (
    "The two machines are simulated from these measurements. If the draft model will run on another kind of machine, "
    "measure it there with `python -m bench curve DRAFT`, and give what that prints to --draft-ms."
)
LAN_MS = 1.0
"""Of a network by cable. Wi-Fi takes 3 to 10 ms."""
QUESTIONS, TOKENS = 24, 64
KNOWN = Path("shipped")
"""Stands for the questions that the shipped models know."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("lead match", description=ABOUT, epilog=EPILOG, formatter_class=Help)
    what = "GGUF file or its folder, Hugging Face directory or hub id, a model of Ollama's on this disk, or shipped"
    p.add_argument("target", metavar="TARGET", help=what)
    p.add_argument("drafts", metavar="DRAFT", nargs="+", help="the draft models to try, named in the same ways")
    group = p.add_argument_group("text")
    group.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help=f"JSONL with `turns` or `messages`: what you ask; {KNOWN}: what the shipped models know (default: "
        "that for the shipped target, else everyday requests)",
    )  # fmt: skip
    group.add_argument("--questions", type=values.positive, default=QUESTIONS, metavar="N", help="how many are asked")
    group.add_argument("--tokens", type=values.positive, default=TOKENS, metavar="N", help="most tokens of each answer")
    group.add_argument(
        "--temperature",
        type=values.sampling("temperature"),
        default=0.0,
        metavar="T",
        help="how the answers are sampled; 0: greedy",
    )
    group = p.add_argument_group("machines")
    group.add_argument(
        "--rtt-ms", type=values.not_negative, metavar="MS",
        help="round trip between lead and back: about 1 by cable, which is the default, 3 to 10 by Wi-Fi, 0 on one "
        "machine",
    )  # fmt: skip
    group.add_argument(
        "--same-machine", action="store_true",
        help="lead and back both run on this machine: measure how much each model slows the other down",
    )  # fmt: skip
    group.add_argument(
        "--draft-ms", type=curves.points, nargs="+", metavar="ROWS:MS,...",
        help="costs of the draft models on their own machine, in the order of DRAFT (default: as measured here)",
    )  # fmt: skip
    runtime = p.add_argument_group("running")
    flags.add_runtime_flags(runtime)
    flags.add_hub_access_flags(runtime)
    return p
