"""What the target is asked: prompts of a file, or questions that it writes itself.

A chat model that is given the beginning of a user's turn writes that turn. This is Magpie's idea (arXiv 2406.08464). So
its questions are about what it was trained for. A base model writes texts from their first word on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from duo.engines.answering import Answer, Asked, answers
from duo.engines.base import Engine, Logits, Vocabulary
from duo.errors import RequestError
from duo.sampling.params import SamplingParams

Message = dict[str, str]

MARK = "qzjxkv"
"""Stands where the user's words stand, in a text that no template has."""
QUESTION_TOKENS = 96
"""Most tokens of a question."""
TEMPERATURES = (0.0, 0.8)
"""How answers are sampled, in turns: as greedy as at most servers, and as free."""
FREE = 1.0
"""Temperature of questions, and of a base model's texts."""


class Turn(NamedTuple):
    """opening: tokens of a prompt, up to the user's first word. end: the token after the user's last word."""

    opening: Sequence[int]
    end: int


def turn_of(vocabulary: Vocabulary) -> Turn | None:
    """How the user's turn begins and ends; None if the model has no chat template, or none that shows it."""
    if not vocabulary.chat_template:
        return None
    try:
        before, found, after = vocabulary.render([{"role": "user", "content": MARK}]).partition(MARK)
    except RequestError:
        return None
    opening, ending = vocabulary.encode_rendered(before), vocabulary.encode_rendered(after)
    return Turn(opening, ending[0]) if found and opening and ending else None


class Questions:
    """Prompts without end: those of a list first, then those that the target writes."""

    def __init__(self, target: Engine, given: Sequence[Sequence[int]], seed: int, asked: int = 0) -> None:
        """given: prompts, as tokens. seed: other seeds give other questions. asked: how many were given out before."""
        self._target, self._given, self._seed, self.asked = target, list(given), seed, asked
        self._turn = turn_of(target.vocabulary)

    def next(self, count: int) -> list[Sequence[int]]:
        """The next prompts. There may be fewer, if the target wrote nothing in some turns."""
        found: list[Sequence[int]] = self._given[self.asked : self.asked + count]
        found += self._written(count - len(found))
        self.asked += count
        return found

    def _written(self, count: int) -> Iterator[Sequence[int]]:
        vocabulary = self._target.vocabulary
        if self._turn is None:
            for _ in range(count):
                yield vocabulary.encode("") or vocabulary.encode("\n")
            return
        opening, end = self._turn
        ends = vocabulary.eos | {end}
        asked = (Asked(opening, self._params(number), QUESTION_TOKENS, ends) for number in range(count))
        for written in answers(self._target, asked):
            text = vocabulary.decode(written.tokens[:-1] if written.tokens[-1] in ends else written.tokens).strip()
            if text:
                yield vocabulary.chat([{"role": "user", "content": text}])

    def _params(self, number: int) -> SamplingParams:
        return SamplingParams(temperature=FREE, seed=(self._seed << 32) + self.asked + number)


def answered(
    target: Engine, prompts: Sequence[Sequence[int]], temperatures: Sequence[float], seed: int, most: int,
    seen: Callable[[Answer, Logits], None] | None = None,
) -> Iterator[Answer]:  # fmt: skip
    """The target's answers to prompts that fit, as they come. Temperatures are taken in turns."""
    fitting = [prompt for prompt in prompts if prompt and len(prompt) + 2 <= target.context]
    asked = (
        Asked(
            prompt, SamplingParams(temperature=temperatures[number % len(temperatures)], seed=(seed << 16) + number),
            min(most, target.context - len(prompt) - 1), target.vocabulary.eos,
        )
        for number, prompt in enumerate(fitting)
    )  # fmt: skip
    return answers(target, asked, seen)
