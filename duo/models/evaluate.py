"""Two figures say whether the pair is good for its purpose.

The target must know its domain. The figure is the share of trained questions that it answers greedily with the right
first sentence. The draft must be plausible and often wrong. The figure is how often its first guess is the target's
next token, along the target's greedy answers: the acceptance of a single greedy guess.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from duo import models
from duo.models import corpus

BATCH = 32
MAX_TOKENS = 192  # per answer


@dataclass(frozen=True)
class Answer:
    """A question, the target's answer, and the tokens of both."""

    question: corpus.Question
    text: str
    prompt: list[int]
    completion: list[int]

    @property
    def right(self) -> bool:
        """Whether the answer opens with the expected sentence."""
        return self.text.startswith(self.question.opening)


def load(directory: Path) -> PreTrainedModel:
    """A model in float32, ready for inference."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.train(False)
    return model


def _prompt(tokenizer: PreTrainedTokenizerBase, question: corpus.Question) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question.text}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.inference_mode()
def answer(
    target: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[corpus.Question]
) -> list[Answer]:
    """The target's greedy answers. Questions of equal length share a batch, so that nothing is padded."""
    prompts = [_prompt(tokenizer, q) for q in questions]
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(i)
    answers: dict[int, Answer] = {}
    for group in by_length.values():
        for start in range(0, len(group), BATCH):
            rows = group[start : start + BATCH]
            batch = torch.tensor([prompts[i] for i in rows])
            out = target.generate(  # type: ignore[operator]
                batch, attention_mask=torch.ones_like(batch), max_new_tokens=MAX_TOKENS, do_sample=False
            )
            for i, ids in zip(rows, out[:, batch.shape[1] :].tolist(), strict=True):
                end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
                text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
                answers[i] = Answer(questions[i], text, prompts[i], ids[:end])
    return [answers[i] for i in range(len(questions))]


@torch.inference_mode()
def acceptance(draft: PreTrainedModel, answers: Sequence[Answer]) -> float:
    """Share of the target's greedy tokens that are also the draft's first guess."""
    agreed = total = 0
    for a in answers:
        logits = draft(torch.tensor([a.prompt + a.completion])).logits[0]
        guesses = logits[len(a.prompt) - 1 : -1].argmax(-1)
        agreed += int((guesses == torch.tensor(a.completion)).sum())
        total += len(a.completion)
    return agreed / max(1, total)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m duo.models.evaluate", description="Measure what the target knows and the draft guesses."
    )
    parser.add_argument("--target", type=Path, default=models.TARGET, help="model directory (default: the shipped one)")
    parser.add_argument("--draft", type=Path, default=models.DRAFT, help="model directory (default: the shipped one)")
    parser.add_argument("--sample", type=int, default=300, help="number of questions (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="which questions (default 1)")
    parser.add_argument("--wrong", action="store_true", help="also print the questions that were answered wrongly")
    args = parser.parse_args(arguments)
    for directory in (args.target, args.draft):
        if not (directory / "config.json").is_file():
            print(f"error: {directory} is not a model directory; give one that train.py wrote", file=sys.stderr)
            return 2
    if args.sample < 1:
        print(f"error: --sample must be at least 1, not {args.sample}", file=sys.stderr)
        return 2
    if args.target == models.TARGET and sys.version_info[:2] != (3, 11):
        print("note: the shipped pair learned CPython 3.11's docstrings; others count as wrong here", file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    questions = corpus.questions(args.sample, args.seed)
    answers = answer(load(args.target), tokenizer, questions)
    right = sum(a.right for a in answers)
    exact = sum(a.text == a.question.answer for a in answers)
    length = sum(len(a.completion) for a in answers) / len(answers)
    print(f"{'questions':34}{len(answers):8}")
    print(f"{'right first sentence':34}{right / len(answers):8.3f}")
    print(f"{'right to the last letter':34}{exact / len(answers):8.3f}")
    print(f"{'mean answer, tokens':34}{length:8.1f}")
    print(f"{'acceptance of one greedy guess':34}{acceptance(load(args.draft), answers):8.3f}")
    if args.wrong:
        for a in answers:
            if not a.right:
                print(f"\n{a.question.text}\n  wanted: {a.question.opening}\n  got:    {corpus.first_sentence(a.text)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
