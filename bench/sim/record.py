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
from bench.harness import prompts
from bench.harness.models import Runtime
from bench.harness.prompts import Message
from bench.sim import calibration, recordings
from duo.draft.policy import CHILDREN, MAX_ROWS, MIN_PROBABILITY
from duo.draft.scaling import Scale, Sharpness
from duo.engines import ROOT, Engine, EngineOptions, Row, load
from duo.errors import FileError
from duo.program import values
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from lead.simulation.replay import Recorded
from lead.target import TREE_ROWS

SLOT = 0
ROWS = 32
"""Tokens of an answer that the draft reads in one forward pass."""
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
    conversations = prompts.read(wanted.file) if wanted.file else prompts.shipped()
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
            made = [along(draft, scale, sharpness, *text) for text in texts]
        return made


@contextmanager
def _loaded(model: str, wanted: Wanted, rows: int) -> Iterator[Engine]:
    engine = load(model, wanted.runtime, EngineOptions(tree_rows=rows))
    try:
        yield engine
    finally:
        engine.close()


def along(
    draft: Engine, scale: Scale, sharpness: Sharpness, prompt: Sequence[int], tokens: Sequence[int],
    params: SamplingParams,
) -> Recorded:  # fmt: skip
    """What the draft guesses at each place of an answer."""
    sampler, guesses = Sampler(params, prompt), []
    draft.truncate(SLOT, 0)
    draft.extend(SLOT, prompt[:-1])
    read = [prompt[-1], *tokens[:-1]]
    for start in range(0, len(read), ROWS):
        rows = [Row(i, SLOT, token, i - 1 if i else ROOT) for i, token in enumerate(read[start : start + ROWS])]
        for place, logits in enumerate(draft.forward(rows), start):
            ranked = sampler.rank(logits, tokens[:place], CHILDREN, scale.value, sharpness.value)
            if params.temperature:
                picks = sampler.picks(logits, tokens[:place], Sharpness.CANDIDATES)
                sharpness.outcome(picks, tokens[place])
            guesses.append(ranked)
            # Learned from what a back would have sent.
            sent = ranked[:1] + [guess for guess in ranked[1:] if guess[1] >= MIN_PROBABILITY]
            picked = [token for token, _ in sent]
            scale.outcome([p for _, p in sent], picked.index(tokens[place]) if tokens[place] in picked else None)
        draft.commit(SLOT, [row.id for row in rows])
    return Recorded(list(prompt), list(tokens), guesses)


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
