"""`python -m bench record`: what a draft guesses along real answers of a target, for the simulator.

The target answers. Then the draft model reads the same text, and says at every place what it would have guessed. It
learns its scale along the way, as a back does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.compare.speculate import ChainDraft, Target, synchronous
from bench.compare.trial import seed
from bench.harness.models import Runtime
from bench.sim import calibration, recordings
from duo.draft.policy import MAX_ROWS
from duo.draft.scaling import Scale, Sharpness
from duo.engines import Engine, EngineOptions, load
from duo.errors import FileError
from duo.program import values
from duo.program.prompts import Message
from duo.program.prompts import read as read_prompts
from duo.sampling.params import SamplingParams
from lead.match import prompts
from lead.match.recording import along
from lead.simulation.replay import Recorded
from lead.target import TREE_ROWS

DRAFT = (6, 0.3)
"""Length and floor of the drafts that speed up the target's answers. They do not change them."""


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--runtime", choices=("transformers", "llamacpp"), default="llamacpp", help="what runs both")
    p.add_argument("--pair", default="shipped", metavar="PAIR", help="as for `bench compare`: shipped, 0.3B, 1B+60M")
    p.add_argument("--target", metavar="MODEL", help="any other target (GGUF file, directory or hub id)")
    p.add_argument("--draft", metavar="MODEL", help="any other draft")
    p.add_argument("--prompts", type=Path, metavar="FILE", help="JSONL with `turns` or `messages`")
    p.add_argument("--questions", type=values.positive, default=12, metavar="N", help="how many of them")
    p.add_argument("--tokens", type=values.positive, default=128, metavar="N", help="tokens of each answer")
    p.add_argument("--rounds", type=values.positive, default=1, metavar="N", help="how often all are asked, by seed")
    p.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: greedy")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write the answers, a line each")


@dataclass(frozen=True)
class Wanted:
    """What to record."""

    target: str
    draft: str
    runtime: Runtime
    file: Path | None
    questions: int
    tokens: int
    rounds: int
    temperature: float


def record(wanted: Wanted, warm: bool = False) -> list[Recorded]:
    """The answers, in the order in which `bench compare` asks for them. Raises DuoError.

    warm: start with the scale that the draft has learned from these answers.
    """
    conversations = read_prompts(wanted.file) if wanted.file else prompts.shipped()
    with _loaded(wanted.target, wanted, TREE_ROWS) as target, _loaded(wanted.draft, wanted, MAX_ROWS) as draft:
        chains, answering = ChainDraft(draft), Target(target)

        def answer(prompt: Sequence[int], params: SamplingParams) -> list[int]:
            chains.forget()
            return synchronous(answering, chains, prompt, wanted.tokens, params, *DRAFT).tokens

        def said(messages: Sequence[Message]) -> str:
            vocabulary = target.vocabulary
            return vocabulary.decode(answer(vocabulary.chat(messages), SamplingParams(temperature=0.0)))

        longest = min(target.context, draft.context) - wanted.tokens - MAX_ROWS
        found, _ = prompts.questions(conversations, wanted.questions, longest, target.vocabulary.chat, said)
        if not found:
            raise FileError(f"{wanted.file}: no prompt in it fits the context of the models")
        texts: list[tuple[Sequence[int], list[int], SamplingParams]] = []
        for round_ in range(wanted.rounds):
            for number, question in enumerate(found):
                params = SamplingParams(temperature=wanted.temperature, seed=seed(round_, number))
                texts.append((question.prompt, answer(question.prompt, params), params))
        scale, sharpness = Scale(), Sharpness()
        for _ in range(1 + warm):
            made = [along(draft, scale, sharpness, *text, target.vocabulary.size) for text in texts]
        return made


@contextmanager
def _loaded(model: str, wanted: Wanted, rows: int) -> Iterator[Engine]:
    engine = load(model, wanted.runtime, EngineOptions(tree_rows=rows))
    try:
        yield engine
    finally:
        engine.close()


def main(args: argparse.Namespace) -> int:
    from bench.compare.run import models

    setup = models(args)
    wanted = Wanted(
        setup.target, setup.draft, args.runtime, args.prompts, args.questions, args.tokens, args.rounds,
        args.temperature,
    )  # fmt: skip
    answers = record(wanted)
    recordings.write(args.out, answers)
    print(calibration.markdown(answers))
    return 0
