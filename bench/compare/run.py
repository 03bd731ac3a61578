"""`python -m bench compare`: ours against every other schedule of the same two models.

Processes are real, and the machine's cores are two devices: the lead has one thread on one core, the back another. A
proxy between them delays everything by half a round trip. All schedules answer the same questions in turns.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
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
from bench.harness import padding
from bench.harness.processes import halves
from duo.errors import FileError
from duo.program.prompts import Conversation, Message
from duo.program.prompts import read as read_prompts
from lead.match import prompts
from lead.match.prompts import Question

TREE_MARGIN = 40
"""Tokens of context that stay free for a tree of guesses."""


def main(args: argparse.Namespace) -> int:
    console = Console(stderr=True)
    return compare(args, lambda words: console.print(words, highlight=False, markup=False, soft_wrap=True))


def compare(args: argparse.Namespace, say: Say) -> int:
    """Returns 1 if a text of ours differs from the target's in transformers, where it must not."""
    conversations = read_prompts(args.prompts) if args.prompts else prompts.shipped()
    names, left_out = lineup.chosen(args.only, args.backs, args.runtime)
    for line in left_out:
        say(line)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot write to {args.out}: {(error.strerror or '').lower()}; choose another --out") from None
    setup = models(args)
    workload = Workload(args.tokens, args.rounds, args.temperature, args.round_trip)
    title = f"{Path(args.target).name if args.target else args.pair} on {args.runtime}"
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    records: list[Record] = []
    with ExitStack() as stack:
        say(f"loading {Path(setup.target).name}")
        engine = setup.runtime
        worker = stack.enter_context(WorkerProcess(setup.target, setup.draft, engine=engine, cpus=setup.lead_cpus))
        draft = stack.enter_context(WorkerProcess(None, setup.draft, engine=engine, cpus=setup.back_cpus))
        parts = Parts(setup, worker.ready(), draft.ready())
        questions = ask_for(conversations, args, parts, say)
        notes = [*report.notes(args, setup, len(questions)), *left_out]
        together = lineup.groups(names, lineup.sizes(names, Path(setup.target), engine), lineup.free_memory())
        for number, group in enumerate(together):
            if len(together) > 1:
                say(f"group {number + 1} of {len(together)}, for want of memory: {', '.join(group)}")
            for block in run_group(group, parts, questions, workload, say, number):
                records += block
                # Written after each block, because the rest may take hours or be interrupted.
                text = report.write(args.out, title, command, notes, records)
    print(text)
    if OURS in names:
        say("one more answer, for the timeline")
        timeline.draw(setup, questions[0], workload, title, args.out)
    wrong = different_texts(records)
    for name in wrong:
        say(f"{LABELS[name]}: not always the text that there is without a back")
    # In llama.cpp a near tie may change with the width of the batch: docs/exactness.md.
    return 1 if wrong and args.runtime == "transformers" else 0


def models(args: argparse.Namespace) -> Setup:
    """The pair that the flags name."""
    size, _, draft_size = args.pair.partition("+")
    target = args.target or padding.model("target", size, args.runtime)
    draft = args.draft or padding.model("draft", draft_size, args.runtime)
    lead_cpus, back_cpus = halves()
    return Setup(target, draft, args.runtime, lead_cpus, back_cpus)


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
    found, too_long = prompts.questions(conversations, args.questions, longest, tokens, answer)
    if too_long:
        say(f"{too_long} questions are left out: they are longer than the context of the target, {longest} tokens here")
    if not found:
        raise FileError(f"{args.prompts}: no prompt in it fits the context of the target")
    return found


def run_group(
    names: Sequence[str], parts: Parts, questions: Sequence[Question], workload: Workload, say: Say, number: int
) -> Iterator[list[Record]]:
    """Loads the entrants of a group, one after the other, and asks them."""
    with ExitStack() as stack:
        entrants = lineup.make(names, parts)
        for entrant in entrants:
            stack.enter_context(entrant)
        yield from Trial(entrants, questions, workload, say, number).run()
