"""`python -m duo.models.distil`: the command line, and the order of the work."""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from duo.engines import EngineOptions, threads
from duo.engines.load import load
from duo.errors import ModelError
from duo.models.distil.collecting import collect
from duo.models.distil.run import Plan, Run, begin
from duo.program import flags, models, values
from duo.program.answer_log import logged
from duo.program.config import Help
from duo.program.models import SHIPPED
from duo.program.prompts import read
from duo.program.run import exit_code

ABOUT = (
    "Make a small draft model for a target: the target answers prompts, and the draft learns from its answers. If the "
    "program is stopped, the same command goes on."
)
ANSWERING_SHARE = 0.45
"""Of the time; the rest is for learning."""
SLOTS = 16
"""Answers at once."""
CONTEXT = 1024
"""Tokens of a prompt and its answer, if nobody says otherwise."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m duo.models.distil", description=ABOUT, formatter_class=Help)
    p.add_argument(
        "-m", "--target", metavar="MODEL", required=True,
        help="the model to draft for: GGUF file, Hugging Face directory or hub id, or shipped",
    )  # fmt: skip
    p.add_argument("--minutes", type=values.minutes, required=True, metavar="N", help="how long it may take")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the draft model")
    group = p.add_argument_group("text")
    group.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="JSONL with `turns` or `messages`: what to ask first. After that the target writes questions itself",
    )  # fmt: skip
    group.add_argument(
        "--from-log", type=Path, metavar="FILE", help="learn also from what a lead with --log-answers has written"
    )
    group.add_argument("--tokens", type=values.positive, default=256, metavar="N", help="most tokens of each answer")
    group = p.add_argument_group("draft")
    group.add_argument(
        "--layers", type=values.positive, default=0, metavar="N",
        help="layers of the draft (default: one for eight of the target, and two of a narrow model)",
    )  # fmt: skip
    group.add_argument(
        "--width", type=values.count, default=0, metavar="N",
        help="make a narrow model of new layers, with vectors of this size (default: keep layers of the target)",
    )  # fmt: skip
    group.add_argument(
        "--weights", metavar="MODEL", default="",
        help="the target in the Hugging Face layout, if transformers cannot read its GGUF file",
    )  # fmt: skip
    group.add_argument("--seed", type=values.count, default=0, metavar="N", help="other numbers give other questions")
    runtime = p.add_argument_group("running")
    flags.add_runtime_flags(runtime)
    flags.add_hub_access_flags(runtime)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return exit_code(lambda: distil(args, Console(), Console(stderr=True)))


def distil(args: argparse.Namespace, out: Console, err: Console) -> None:
    """Raises DuoError; KeyboardInterrupt once what was done is saved."""
    target = _located(args)
    run = begin(args.out, Plan(target, args.layers, args.width, args.seed))
    if (seconds := 60 * args.minutes * ANSWERING_SHARE) > run.answering or not run.shelf.read():
        _answer(args, target, run, seconds, err)
    lessons = run.shelf.read()
    if not lessons:
        raise ModelError(f"{args.target} says nothing to its own questions: give it prompts with --prompts")
    held = run.held.read()
    right = _learn(args, target, run, err)
    out.print(
        f"{args.out}: learned from {sum(it.size for it in lessons)} tokens of {len(lessons)} answers. Its first guess "
        f"is the target's own token in {right:.0%} of the places of {len(held)} other answers",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    _judge(args, target, err)


def _located(args: argparse.Namespace) -> str:
    """The path or id of the target. It may be downloaded."""
    if args.target == SHIPPED:
        return models.shipped_path("target", args.engine)
    return str(models.located(argparse.Namespace(**vars(args), model=args.target, hf_repo="", hf_file="")).model)


@contextmanager
def _bar(err: Console, what: str) -> Iterator[Callable[[float, str], None]]:
    """A bar of progress on a terminal, which is given a share and words; elsewhere one line."""
    if not err.is_terminal:
        err.print(what)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=1.0, words="")
        yield lambda share, words: bar.update(task, completed=share, words=words)


def _answer(args: argparse.Namespace, target: str, run: Run, seconds: float, err: Console) -> None:
    given = read(args.prompts) if args.prompts else []
    log = logged(args.from_log) if args.from_log else []
    options = EngineOptions(
        threads=args.threads or threads.usual(), slots=SLOTS, context=args.context or CONTEXT, tree_rows=64,
        gpu_layers=args.gpu_layers, device=args.device, dtype=args.dtype, flash_attention=args.flash_attention,
    )  # fmt: skip
    engine = load(target, args.engine, options)
    try:
        chat = engine.vocabulary.chat
        prompts = [chat([*it.before, {"role": "user", "content": it.turns[0]}]) for it in given]
        with _bar(err, "the target answers") as progress:
            collect(engine, prompts, log, run, seconds, args.tokens, lambda at, n: progress(at, f"{n} tokens"))
    finally:
        engine.close()


def _learn(args: argparse.Namespace, target: str, run: Run, err: Console) -> float:
    """Train the draft and write it. Returns how often its first guess is right."""
    import torch

    from duo.models.distil import student
    from duo.models.distil.training import Trainer

    torch.set_num_threads(args.threads or threads.usual())
    whole = student.weights_of(args.weights or target)
    model = student.narrow(whole, args.width, args.layers) if args.width else student.cut(whole, args.layers)
    del whole
    seconds = max(1.0, 60 * args.minutes - run.answering)
    trainer = Trainer(model, run.shelf.read(), seconds, run.training, args.seed, table=bool(args.width))
    try:
        with _bar(err, "the draft learns") as progress:
            trainer.run(lambda it: progress(it.share, f"loss {it.loss:.3f}, first guess right {it.right:.0%}"))
    finally:
        trainer.save()
    right = trainer.right(run.held.read())
    student.write(model, args.weights or target, args.out)
    return right


def _judge(args: argparse.Namespace, target: str, err: Console) -> None:
    """The speed-up to expect, by `lead match`, in a process of its own."""
    if find_spec("lead") is None:
        err.print("where a lead is installed, `python -m lead match` says what speed-up to expect")
        return
    command: list[Any] = [sys.executable, "-m", "lead", "match", target, args.out]
    if args.prompts:
        command += ["--prompts", args.prompts]
    elif args.target == SHIPPED:
        command[4] = SHIPPED
    subprocess.run(command, check=False)


if __name__ == "__main__":
    sys.exit(main())
