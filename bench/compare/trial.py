"""Who is asked when.

Every schedule is loaded before the first is asked. Each round asks all questions for each round trip in turn; a
question goes to one schedule after the other, and another one begins each time. What the network does not concern is
asked in one of a round's blocks only, but the target alone in all of them: it is what all others are measured by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.compare.entrant import Answer, Schedule, Setting
from bench.compare.figures import Record, best
from bench.compare.names import BASE
from bench.harness.prompts import Question

Say = Callable[[str], None]
T = TypeVar("T")

PILOT_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """How much is asked. Round trips in ms."""

    tokens: int
    rounds: int
    temperatures: Sequence[float]
    round_trips: Sequence[float]
    pilot: int = 2
    """Questions by which the best draft length is found."""


def rotated(items: Sequence[T], by: int) -> list[T]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def block(schedules: Sequence[Schedule], round_: int, index: int, blocks: int) -> list[Schedule]:
    """Who is asked in this block of a round."""
    return [s for s in schedules if s.networked or s.name == BASE or round_ % blocks == index]


def seed(round_: int, question: int) -> int:
    """Another text in each round, where the temperature lets it."""
    return 1 + 1000 * round_ + question


def candidates(schedule: Schedule) -> Iterator[list[Setting]]:
    """Settings to try: all lengths, then, from the best on, all floors. `schedule.setting` is the best so far."""
    yield [Setting(length) for length in schedule.lengths]
    if schedule.floors:
        at = schedule.lengths.index(schedule.setting.length)
        longer = schedule.lengths[at : at + 3]
        yield [schedule.setting, *(Setting(length, floor) for length in longer for floor in schedule.floors)]


def tune(schedule: Schedule, questions: Sequence[Question], plan: Plan, temperature: float, say: Say) -> None:
    """Find the setting at which the schedule is fastest on the first questions."""
    few = questions[: plan.pilot]
    tokens = min(plan.tokens, PILOT_TOKENS)
    schedule.setting = Setting(schedule.lengths[0])
    schedule.answer(few[0], tokens, temperature, seed(0, 0))  # what is set up once
    for settings in candidates(schedule):
        speeds: dict[Setting, list[float]] = {setting: [] for setting in settings}
        for number, question in enumerate(few):
            for setting in settings:
                schedule.setting = setting
                answer = schedule.answer(question, tokens, temperature, seed(0, number))
                speeds[setting].append(answer.tokens / answer.seconds)
        schedule.setting = best(speeds)
    say(f"  {schedule.name}: best at {schedule.setting}")


class Trial:
    """One run over schedules that are loaded; those in a `group` are loaded at the same time."""

    def __init__(
        self, schedules: Sequence[Schedule], questions: Sequence[Question], plan: Plan, say: Say, group: int = 0
    ) -> None:
        self._group = group
        self._schedules = schedules
        self._questions = questions
        self._plan = plan
        self._say = say
        self._settings: dict[tuple[str, float, float], Setting] = {}

    def run(self) -> Iterator[list[Record]]:
        """The answers, block by block."""
        for temperature in self._plan.temperatures:
            for round_ in range(self._plan.rounds):
                for index, round_trip in enumerate(self._plan.round_trips):
                    there = block(self._schedules, round_, index, len(self._plan.round_trips))
                    self._say(f"temperature {temperature:g}, round {round_ + 1}, round trip {round_trip:g} ms")
                    self._prepare(there, temperature, round_trip)
                    yield self._block(there, temperature, round_, round_trip)

    def _prepare(self, schedules: Sequence[Schedule], temperature: float, round_trip: float) -> None:
        """Connect, choose the draft length, and one answer that does not count."""
        for schedule in schedules:
            schedule.at(round_trip / 1000)
            if schedule.lengths:
                key = (schedule.name, temperature, round_trip if schedule.networked else 0.0)
                if key not in self._settings:
                    tune(schedule, self._questions, self._plan, temperature, self._say)
                    self._settings[key] = schedule.setting
                schedule.setting = self._settings[key]
            schedule.answer(self._questions[-1], self._plan.tokens, temperature, seed(0, 0))

    def _block(self, schedules: Sequence[Schedule], temperature: float, round_: int, round_trip: float) -> list[Record]:
        records: list[Record] = []
        for number, question in enumerate(self._questions):
            answers: dict[str, Answer] = {}
            for schedule in rotated(schedules, round_ * len(self._questions) + number):
                answers[schedule.name] = schedule.answer(question, self._plan.tokens, temperature, seed(round_, number))
            alone = answers[BASE].text if BASE in answers else None
            for schedule in schedules:
                a = answers[schedule.name]
                records.append(
                    Record(
                        group=self._group,
                        schedule=schedule.name,
                        networked=schedule.networked,
                        own=schedule.own,
                        temperature=temperature,
                        round_trip=round_trip,
                        round=round_,
                        question=number,
                        tokens=a.tokens,
                        seconds=a.seconds,
                        drafted=a.drafted,
                        accepted=a.accepted,
                        setting=str(schedule.setting) if schedule.lengths else "",
                        same=None if schedule.name == BASE or alone is None else _plain(a.text) == _plain(alone),
                    )
                )
        return records


def _plain(text: str) -> str:
    """Without the half of a character that the last token may have left."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")
