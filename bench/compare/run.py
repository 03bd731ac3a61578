"""`python -m bench compare`: ours against every other schedule of the same two models.

Processes are real, and the machine's cores are two devices: the lead has one thread on one core, the back another. A
proxy between them delays everything by half a round trip. All schedules answer the same questions in turns.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from bench.compare import lineup, report, timeline
from bench.compare.entrant import Setup
from bench.compare.figures import Record, different_texts
from bench.compare.lineup import Parts
from bench.compare.names import LABELS, OURS
from bench.compare.options import add_flags as add_flags
from bench.compare.trial import Say, Trial, Workload
from bench.compare.worker import WorkerProcess
from bench.harness import padding, real
from bench.harness.processes import halves
from bench.workloads import kinds
from duo.errors import FileError
from duo.program.prompts import Conversation, Message
from duo.program.prompts import read as read_prompts
from lead.match import prompts
from lead.match.prompts import Question

TREE_MARGIN = 72
"""Tokens of context that stay free for a tree of guesses."""
NO_DRAFT = "none"
WARM_UP = "Hello"


def main(args: argparse.Namespace) -> int:
    console = Console(stderr=True)
    return compare(args, lambda words: console.print(words, highlight=False, markup=False, soft_wrap=True))


def compare(args: argparse.Namespace, say: Say) -> int:
    """Returns 1 if a text of ours differs from the target's in transformers, where it must not."""
    wanted = conversations(args)
    setup = models(args)
    names, left_out = lineup.chosen(args.only, args.backs, args.runtime, bool(setup.draft))
    for line in left_out:
        say(line)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot write to {args.out}: {(error.strerror or '').lower()}; choose another --out") from None
    workload = Workload(args.tokens, args.rounds, args.temperature, args.round_trip, args.questions)
    title = f"{Path(args.target).name if args.target else args.pair} on {args.runtime}"
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    records: list[Record] = []
    with ExitStack() as stack:
        say(f"loading {Path(setup.target).name}")
        engine = setup.runtime
        both = WorkerProcess(setup.target, setup.draft or None, engine=engine, cpus=setup.lead_cpus)
        worker, draft = stack.enter_context(both), None
        if setup.draft:
            server = WorkerProcess(None, setup.draft, engine=engine, cpus=setup.back_cpus)
            draft = stack.enter_context(server).ready()
        parts = Parts(setup, worker.ready(), draft)
        asked = {name: ask_for(found, args, parts, say) for name, found in wanted.items()}
        notes = [*report.notes(args, setup, sum(map(len, asked.values()))), *left_out]
        together = lineup.groups(names, lineup.sizes(names, Path(setup.target), engine), lineup.free_memory())
        for number, group in enumerate(together):
            if len(together) > 1:
                say(f"group {number + 1} of {len(together)}, for want of memory: {', '.join(group)}")
            for block in run_group(group, parts, asked, workload, say, number):
                records += block
                # Written after each block, because the rest may take hours or be interrupted.
                text = report.write(args.out, title, command, notes, records)
    print(text)
    if OURS in names and setup.draft:
        say("one more answer, for the timeline")
        timeline.draw(setup, next(iter(asked.values()))[0], workload, title, args.out)
    wrong = different_texts(records)
    for name in wrong:
        say(f"{LABELS[name]}: not always the text that there is without a back")
    # In llama.cpp a near tie may change with the width of the batch: docs/exactness.md.
    return 1 if wrong and args.runtime == "transformers" else 0


def models(args: argparse.Namespace) -> Setup:
    """The pair that the flags name."""
    size, _, draft_size = args.pair.partition("+")
    lead_cpus, back_cpus = halves()
    if size in real.NAMES:
        target, draft = args.target or str(real.model(size, args.runtime)), args.draft or NO_DRAFT
    else:
        target = args.target or padding.model("target", size, args.runtime)
        draft = args.draft or padding.model("draft", draft_size, args.runtime)
    return Setup(target, "" if draft == NO_DRAFT else draft, args.runtime, lead_cpus, back_cpus)


def conversations(args: argparse.Namespace) -> Mapping[str, Sequence[Conversation]]:
    """What is asked, by workload. Raises FileError and UnknownWorkloadError."""
    if args.prompts:
        return {args.prompts.stem: read_prompts(args.prompts)}
    known = not args.target and args.pair.partition("+")[0] not in real.NAMES
    return {name: kinds.conversations(name, known) for name in kinds.chosen(args.workload)}


def ask_for(conversations: Sequence[Conversation], args: argparse.Namespace, parts: Parts, say: Say) -> list[Question]:
    """Makes the questions. The target answers the earlier turns of a conversation."""

    def tokens(messages: Sequence[Message]) -> Sequence[int]:
        prompt: Sequence[int] = parts.worker.ask("chat", messages=messages)
        return prompt

    def answer(messages: Sequence[Message]) -> str:
        asked = {"prompt": tokens(messages), "n": args.tokens, "temperature": 0.0, "seed": 0}
        decoded = parts.worker.decode("synchronous", **asked, length=4, floor=0.3)
        text: str = parts.worker.ask("decode", tokens=decoded.tokens)
        return text

    longest = parts.worker.ask("context") - args.tokens - TREE_MARGIN
    found, too_long = prompts.questions(conversations, args.questions * args.rounds, longest, tokens, answer)
    if too_long:
        say(f"{too_long} questions are left out: they are longer than the context of the target, {longest} tokens here")
    if not found:
        raise FileError(f"{args.prompts or args.workload}: no prompt in it fits the context of the target")
    return found


def run_group(
    names: Sequence[str],
    parts: Parts,
    asked: Mapping[str, Sequence[Question]],
    workload: Workload,
    say: Say,
    number: int,
) -> Iterator[list[Record]]:
    """Loads the entrants of a group, one after the other, and asks them."""
    with ExitStack() as stack:
        entrants = lineup.make(names, parts)
        for entrant in entrants:
            stack.enter_context(entrant)
        hello: list[Message] = [{"role": "user", "content": WARM_UP}]
        warm_up = Question(hello, parts.worker.ask("chat", messages=hello))
        yield from Trial(entrants, asked, warm_up, workload, say, number).run()
