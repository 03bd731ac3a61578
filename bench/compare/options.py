"""The command line of `python -m bench compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.compare.names import LABELS
from duo.program import values


def add_flags(p: argparse.ArgumentParser) -> None:
    p.epilog = (
        "llama.cpp's server competes where DUO_LLAMA_SERVER names it or `python -m bench build-llama-server` has made "
        "it. results.json, results.md, speedup.svg, timeline.svg and trace.json (for Perfetto) are what comes out."
    )
    models = p.add_argument_group("models")
    models.add_argument("--runtime", choices=("transformers", "llamacpp"), default="llamacpp", help="what runs both")
    models.add_argument(
        "--pair", default="shipped", metavar="PAIR",
        help="shipped, or the shipped target padded with zeros to a size, for llama.cpp also of a type: 0.3B, 1B, "
        "1B-q8_0; the draft may be padded as well: 1B+60M",
    )  # fmt: skip
    models.add_argument("--target", metavar="MODEL", help="any other target (GGUF file, directory or hub id)")
    models.add_argument("--draft", metavar="MODEL", help="any other draft")
    asked = p.add_argument_group("questions")
    asked.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="JSONL with `turns` (MT-Bench, Spec-Bench) or `messages` (default: what the shipped target knows)",
    )  # fmt: skip
    asked.add_argument("--questions", type=values.positive, default=6, metavar="N", help="how many of them")
    asked.add_argument("--tokens", type=values.positive, default=96, metavar="N", help="tokens of each answer")
    asked.add_argument("--rounds", type=values.positive, default=3, metavar="N", help="how often all are asked")
    asked.add_argument(
        "--temperature", type=not_negative, nargs="+", default=[0.0, 0.8], metavar="T", help="temperatures, one by one"
    )
    asked.add_argument(
        "--round-trip", type=not_negative, nargs="+", default=[0.0], metavar="MS",
        help="milliseconds from lead to back and back again, one by one",
    )  # fmt: skip
    p.add_argument("--only", metavar="NAMES", help=f"these schedules only, with commas: {', '.join(LABELS)}")
    p.add_argument("--backs", action="store_true", help="also ours with backs that do harm")
    p.add_argument("--out", type=Path, default=Path("build/compare"), metavar="DIR", help="folder for the results")


def not_negative(text: str) -> float:
    """For argparse: a number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value
