"""Who is asked when.

Each round has questions of its own, as long as there are enough: memory would know the answers the second time.
All entrants are loaded before the first is asked. Each round goes through the round trips, and asks all questions at
each. A question goes to one entrant after the other, each time beginning with another one. Entrants that use no network
are asked at one round trip of a round. The target alone is asked at all, because the others are measured by it.

Nothing is guessed from the answers of earlier rounds: they had the same questions, and people ask new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.compare.entrant import Answer, Entrant, Setting
from bench.compare.figures import Record, best
from bench.compare.names import BASE
from lead.match.prompts import Question

Say = Callable[[str], None]
T = TypeVar("T")

PILOT_QUESTIONS, PILOT_TOKENS = 2, 64
"""A pilot finds the best draft length on this many questions, with this many tokens at most."""


@dataclass(frozen=True)
class Workload:
    """How much is asked. questions: of each workload in a round. round_trips: in ms."""

    tokens: int
    rounds: int
    temperatures: Sequence[float]
    round_trips: Sequence[float]
    questions: int


def rotated(items: Sequence[T], by: int) -> list[T]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def block(entrants: Sequence[Entrant], round_: int, index: int, blocks: int) -> list[Entrant]:
    """The entrants that are asked in this block of a round. A block is one round trip."""
    return [s for s in entrants if s.networked or s.name == BASE or round_ % blocks == index]


def seed(round_: int, question: int) -> int:
    """A seed for each round, so that sampled texts differ between rounds."""
    return 1 + 1000 * round_ + question


def candidates(entrant: Entrant) -> Iterator[list[Setting]]:
    """Settings to try: first all lengths, then all floors with the best length and two longer ones.

    Between the two, the caller sets `entrant.setting` to the best so far.
    """
    yield [Setting(length) for length in entrant.lengths]
    if entrant.floors:
        at = entrant.lengths.index(entrant.setting.length)
        longer = entrant.lengths[at : at + 3]
        yield [entrant.setting, *(Setting(length, floor) for length in longer for floor in entrant.floors)]


def tune(entrant: Entrant, questions: Sequence[Question], workload: Workload, temperature: float, say: Say) -> None:
    """Finds the setting at which the entrant is fastest on the first questions."""
    few = questions[:PILOT_QUESTIONS]
    tokens = min(workload.tokens, PILOT_TOKENS)
    entrant.setting = Setting(entrant.lengths[0])
    entrant.answer(few[0], tokens, temperature, seed(0, 0))  # a first answer sets things up
    for settings in candidates(entrant):
        speeds: dict[Setting, list[float]] = {setting: [] for setting in settings}
        for number, question in enumerate(few):
            for setting in settings:
                entrant.setting = setting
                answer = entrant.answer(question, tokens, temperature, seed(0, number))
                speeds[setting].append(answer.tokens / answer.seconds)
        entrant.setting = best(speeds)
    say(f"  {entrant.name}: best at {entrant.setting}")


class Trial:
    """One run over entrants that are loaded. asked: questions by the name of their workload. warm_up: is asked first,
    without counting. group: the number of those entrants that are loaded together."""

    def __init__(
        self, entrants: Sequence[Entrant], asked: Mapping[str, Sequence[Question]], warm_up: Question,
        workload: Workload, say: Say, group: int = 0,
    ) -> None:  # fmt: skip
        self._group = group
        self._entrants = entrants
        self._asked = asked
        self._warm_up = warm_up
        self._workload = workload
        self._say = say
        self._settings: dict[tuple[str, float, float], Setting] = {}

    def run(self) -> Iterator[list[Record]]:
        """Asks, and yields the records of each block."""
        for temperature in self._workload.temperatures:
            for round_ in range(self._workload.rounds):
                for index, round_trip in enumerate(self._workload.round_trips):
                    there = block(self._entrants, round_, index, len(self._workload.round_trips))
                    self._say(f"temperature {temperature:g}, round {round_ + 1}, round trip {round_trip:g} ms")
                    self._prepare(there, temperature, round_trip)
                    yield self._block(there, temperature, round_, round_trip)

    def _prepare(self, entrants: Sequence[Entrant], temperature: float, round_trip: float) -> None:
        """Connects, finds the draft length, asks once without counting it, and lets that be forgotten."""
        for entrant in entrants:
            entrant.at(round_trip / 1000)
            if entrant.lengths:
                key = (entrant.name, temperature, round_trip if entrant.networked else 0.0)
                if key not in self._settings:
                    few = [questions[-1] for questions in self._asked.values()]
                    tune(entrant, few, self._workload, temperature, self._say)
                    self._settings[key] = entrant.setting
                entrant.setting = self._settings[key]
            entrant.answer(self._warm_up, self._workload.tokens, temperature, seed(0, 0))
            entrant.forget()

    def _of_round(self, round_: int) -> Iterator[tuple[str, Question]]:
        """The questions of a round, with their workloads."""
        count = self._workload.questions
        for name, questions in self._asked.items():
            for at in range(round_ * count, (round_ + 1) * count):
                yield name, questions[at % len(questions)]

    def _block(self, entrants: Sequence[Entrant], temperature: float, round_: int, round_trip: float) -> list[Record]:
        records: list[Record] = []
        for number, (workload, question) in enumerate(self._of_round(round_)):
            answers: dict[str, Answer] = {}
            for entrant in rotated(entrants, round_ + number):
                answers[entrant.name] = entrant.answer(
                    question, self._workload.tokens, temperature, seed(round_, number)
                )
            alone = answers[BASE].text if BASE in answers else None
            for entrant in entrants:
                a = answers[entrant.name]
                records.append(
                    Record(
                        workload=workload,
                        group=self._group,
                        schedule=entrant.name,
                        networked=entrant.networked,
                        own=entrant.must_match,
                        temperature=temperature,
                        round_trip=round_trip,
                        round=round_,
                        question=number,
                        tokens=a.tokens,
                        seconds=a.seconds,
                        drafted=a.drafted,
                        accepted=a.accepted,
                        setting=str(entrant.setting) if entrant.lengths else "",
                        same=None if entrant.name == BASE or alone is None else _plain(a.text) == _plain(alone),
                    )
                )
        return records


def _plain(text: str) -> str:
    """The text without half a character, which the last token may leave."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")
