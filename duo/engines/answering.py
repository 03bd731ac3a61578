"""Lets a model answer prompts one after the other, as many at once as it has slots. No guesses are involved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from duo.engines.base import Engine, Logits, Row
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler


class Asked(NamedTuple):
    """A prompt, which is not empty. most: tokens of the answer. ends: tokens that end it."""

    prompt: Sequence[int]
    params: SamplingParams
    most: int
    ends: Collection[int]


@dataclass
class Answer:
    """number: of the prompt, in the order of asking. tokens: of the answer, with the one that ended it."""

    number: int
    asked: Asked
    tokens: list[int] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return len(self.tokens) >= self.asked.most or (bool(self.tokens) and self.tokens[-1] in self.asked.ends)


Seen = Callable[[Answer, Logits], None]
"""Is told the logits, shape [vocabulary size], from which the next token of an answer is picked."""


def answers(engine: Engine, asked: Iterable[Asked], seen: Seen | None = None) -> Iterator[Answer]:
    """The model's answers, each as soon as it is over. All slots are used, and forgotten first.

    A prompt is taken from `asked` when a slot is free. Raises ContextError if an answer does not fit.
    """
    waiting = enumerate(asked)
    live: dict[int, tuple[Answer, Sampler]] = {}
    while True:
        for slot in range(engine.slots):
            if slot not in live and (following := next(waiting, None)) is not None:
                number, it = following
                engine.truncate(slot, 0)
                if it.prompt[:-1]:
                    engine.extend(slot, it.prompt[:-1])
                live[slot] = Answer(number, it), Sampler(it.params, it.prompt)
        if not live:
            return
        rows = [
            Row(slot, slot, answer.tokens[-1] if answer.tokens else answer.asked.prompt[-1])
            for slot, (answer, _) in sorted(live.items())
        ]
        logits = engine.forward(rows)
        for row, line in zip(rows, logits, strict=True):
            answer, sampler = live[row.slot]
            if seen is not None:
                seen(answer, line)
            answer.tokens.append(sampler.pick(line, answer.tokens))
            engine.commit(row.slot, [row.id])
            if answer.over:
                del live[row.slot]
                yield answer
