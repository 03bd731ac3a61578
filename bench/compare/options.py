"""The command line of `python -m bench compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.compare.names import LABELS
from bench.workloads.kinds import NAMES
from duo.program import values


def add_flags(p: argparse.ArgumentParser) -> None:
    p.epilog = (
        "llama.cpp's server competes if `python -m bench build-llama-server` has built it, or DUO_LLAMA_SERVER names "
        "it. The results are results.json, results.md, speedup.svg, timeline.svg and trace.json (for Perfetto)."
    )
    add_model_flags(p)
    asked = p.add_argument_group("questions")
    asked.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="JSONL with `turns` (MT-Bench, Spec-Bench) or `messages`, in place of the workloads",
    )  # fmt: skip
    asked.add_argument(
        "--workload", default="all", metavar="NAMES",
        help=f"kinds of text to ask for, with commas between them: {', '.join(NAMES)}; or all of them (default: all)",
    )  # fmt: skip
    asked.add_argument(
        "--questions", type=values.positive, default=4, metavar="N", help="how many of each kind in a round"
    )
    asked.add_argument("--tokens", type=values.positive, default=96, metavar="N", help="tokens of each answer")
    asked.add_argument(
        "--rounds",
        type=values.positive,
        default=1,
        metavar="N",
        help="how many rounds there are; each has other questions, as long as there are enough",
    )
    asked.add_argument(
        "--temperature",
        type=values.not_negative,
        nargs="+",
        default=[0.0, 0.8],
        metavar="T",
        help="temperatures, one after the other",
    )
    asked.add_argument(
        "--round-trip", type=values.not_negative, nargs="+", default=[0.0], metavar="MS",
        help="milliseconds from lead to back and back again, one after the other",
    )  # fmt: skip
    p.add_argument(
        "--only", metavar="NAMES", help=f"only these schedules, with commas between them: {', '.join(LABELS)}"
    )
    p.add_argument("--backs", action="store_true", help="ours also with bad backs")
    p.add_argument("--out", type=Path, default=Path("build/compare"), metavar="DIR", help="folder for the results")


def add_model_flags(p: argparse.ArgumentParser) -> None:
    """Which two models."""
    models = p.add_argument_group("models")
    models.add_argument("--runtime", choices=("transformers", "llamacpp"), default="llamacpp", help="runs both models")
    models.add_argument(
        "--pair", default="shipped", metavar="PAIR",
        help="shipped, or a size to pad the shipped target to with zeros: 0.3B, 1B; for llama.cpp also with a type: "
        "1B-q8_0; the draft can be padded too: 1B+60M; or smollm2 or gemma3, which have no draft",
    )  # fmt: skip
    models.add_argument("--target", metavar="MODEL", help="any other target (GGUF file, directory or hub id)")
    models.add_argument("--draft", metavar="MODEL", help="any other draft; none: no back, and no draft model")
