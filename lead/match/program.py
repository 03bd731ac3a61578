"""Runs `python -m lead match`: loads each model in turn, measures it, and says what to expect."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from duo.draft.policy import MAX_ROWS
from duo.draft.scaling import Scale, Sharpness
from duo.engines import Engine
from duo.engines.load import meanings_in
from duo.engines.meaning import Comparison, Meanings, compare
from duo.errors import DuoError, FileError
from duo.installing import programs
from duo.program import models
from duo.program.models import SHIPPED
from duo.program.prompts import Message
from duo.program.prompts import read as read_prompts
from duo.program.run import exit_code
from duo.sampling.params import SamplingParams
from lead.match import expect, measured, prompts, recording, report, together
from lead.match.expect import Measured
from lead.match.flags import KNOWN, LAN_MS, parser
from lead.match.recording import Prompt
from lead.match.report import Run, Tried
from lead.plan.limits import Limits
from lead.plan.speculation import Speculation
from lead.simulation.replay import Recorded
from lead.target import Target, speculation


class Answers(NamedTuple):
    """A target and what it said. size: of its vocabulary."""

    measured: Measured
    limits: Limits
    meanings: Meanings
    size: int
    texts: Sequence[tuple[Prompt, Sequence[int]]]

    @property
    def tokens(self) -> int:
        return sum(len(tokens) for _, tokens in self.texts)


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    return exit_code(lambda: match(args, Console(), Console(stderr=True)))


def match(args: argparse.Namespace, out: Console, progress: Console) -> None:
    """Raises DuoError."""
    if args.draft_ms and len(args.draft_ms) != len(args.drafts):
        raise FileError(f"--draft-ms has {len(args.draft_ms)} curves for {len(args.drafts)} drafts: give one each")
    if args.draft_ms and args.same_machine:
        raise FileError("--same-machine measures the draft models here: leave out --draft-ms")
    if args.rtt_ms is None:
        args.rtt_ms = 0.0 if args.same_machine else LAN_MS
    with progress.status(escape(f"{args.target}: measuring")) as status:
        with measured.loaded_target(args, args.target) as target:
            status.update(escape(f"{args.target}: answering"))
            answers = _answers(args, target)
        tried: list[Tried] = []
        for number, model in enumerate(args.drafts):
            status.update(escape(f"{model}: measuring and reading"))
            tried.append(_tried(args, model, dict(args.draft_ms[number]) if args.draft_ms else None, answers))
    found = report.ordered(tried)
    out.print(report.table(found))
    run = Run(args.target, answers.measured.seconds, len(answers.texts), answers.tokens, _source(args),
              args.temperature, args.rtt_ms, bool(args.draft_ms), programs(sys.argv[0]), measured.typed(args),
              args.same_machine)  # fmt: skip
    for line in report.said(run, found):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _knows(args: argparse.Namespace) -> bool:
    """Whether the questions are those that the shipped models know."""
    return bool(args.prompts == KNOWN) if args.prompts else bool(args.target == SHIPPED)


def _source(args: argparse.Namespace) -> str:
    if _knows(args):
        return "questions that the shipped models know"
    return f"the prompts of {args.prompts}" if args.prompts else "everyday requests"


def _answers(args: argparse.Namespace, target: Target) -> Answers:
    """What the target answers. Raises DuoError."""
    engine = target.engine
    vocabulary = engine.vocabulary
    if _knows(args):
        conversations = prompts.shipped()
    else:
        conversations = read_prompts(args.prompts) if args.prompts else prompts.general()

    def said(messages: Sequence[Message]) -> str:
        greedy = SamplingParams(temperature=0.0)
        return vocabulary.decode(recording.answered(engine, [(vocabulary.chat(messages), greedy)], args.tokens)[0])

    longest = engine.context - args.tokens - MAX_ROWS
    questions, _ = prompts.questions(conversations, args.questions, longest, vocabulary.chat, said)
    if not questions:
        raise FileError(f"{args.prompts or args.target}: no prompt fits the context, {longest} tokens")
    asked = [
        (question.prompt, SamplingParams(temperature=args.temperature, seed=1 + number))
        for number, question in enumerate(questions)
    ]
    texts = recording.answered(engine, asked, args.tokens)
    return Answers(
        Measured(target.seconds, target.checkpoints), target.limits, vocabulary.meanings, vocabulary.size,
        list(zip(asked, texts, strict=True)),
    )  # fmt: skip


def _tried(args: argparse.Namespace, model: str, given: dict[int, float] | None, answers: Answers) -> Tried:
    """given: milliseconds of its forward passes on its own machine."""
    try:
        compared = _compared(args, model, answers.meanings)
        if not compared.few:
            return Tried(model, f"it has another vocabulary: {compared}")
        with measured.loaded_draft(args, model) as draft:
            record = _record(draft.engine, compared, answers, draft.engine.context)
            seconds = {rows: ms / 1000 for rows, ms in given.items()} if given else draft.seconds
            ranking = draft.ranking
        shared = together.measured(args, args.target, model) if args.same_machine else None
    except DuoError as error:
        return Tried(model, str(error))
    if not record:
        return Tried(model, "its context is too small for these prompts")

    def plan() -> Speculation:
        return speculation("tree", answers.limits, answers.measured.seconds, answers.measured.checkpoints)

    found = expect.expected(answers.measured, seconds, ranking, record, args.rtt_ms / 1000, plan, shared)
    return Tried(model, "", str(compared) if compared.count else "the same", seconds, found)


def _compared(args: argparse.Namespace, model: str, target: Meanings) -> Comparison:
    """The vocabularies, before any weights are loaded."""
    located = measured.named(args, model)
    path = located.model or models.shipped_path("draft", located.engine)
    return compare(target, meanings_in(path, located.engine))


def _record(draft: Engine, compared: Comparison, answers: Answers, context: int) -> list[Recorded]:
    """Read twice: a back has learned its scale after a few answers."""
    fitting = [it for it in answers.texts if len(it[0][0]) + len(it[1]) + recording.ROWS <= context]
    scale, sharpness = Scale(), Sharpness()
    record: list[Recorded] = []
    for _ in range(2):
        record = [
            recording.along(draft, scale, sharpness, prompt, tokens, params, answers.size, compared.tokens)
            for (prompt, params), tokens in fitting
        ]
    return record
