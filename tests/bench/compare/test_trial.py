"""Who is asked when, and how a draft length is found."""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare import trial
from bench.compare.entrant import Answer, Entrant, Setting
from bench.compare.trial import Trial, Workload
from lead.match.prompts import Question


class Scripted(Entrant):
    """An entrant with a speed that depends on its setting alone."""

    def __init__(self, name: str, lengths: Sequence[int] = (), floors: Sequence[float] = (), far: bool = False) -> None:
        super().__init__(name)
        self.lengths, self.floors, self.networked = lengths, floors, far
        self.asked: list[int] = []
        self.trips: list[float] = []

    def at(self, round_trip: float) -> None:
        self.trips.append(round_trip)

    def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
        self.asked.append(seed)
        speed = 10 - abs(self.setting.length - 4) - 10 * abs(self.setting.floor - 0.3)
        return Answer("text", n, n / speed, 0, 0)


QUESTIONS = [Question([{"role": "user", "content": str(i)}], [i]) for i in range(3)]


def test_a_pilot_finds_the_best_setting() -> None:
    schedule = Scripted("sync", (1, 2, 4, 8), (0.1, 0.3, 0.6))
    trial.tune(schedule, QUESTIONS, Workload(64, 1, [0.0], [0.0], 3), 0.0, lambda words: None)
    assert schedule.setting == Setting(4, 0.3)


def test_turns() -> None:
    schedules = [Scripted("none"), Scripted("sync", (1, 4)), Scripted("ours", far=True)]
    plan = Workload(16, 4, [0.0, 0.8], [0.0, 20.0], 3)
    blocks = list(Trial(schedules, {"questions": QUESTIONS}, QUESTIONS[0], plan, lambda words: None).run())
    assert len(blocks) == 2 * 4 * 2
    records = [r for block in blocks for r in block]
    count = {s.name: sum(r.schedule == s.name for r in records) for s in schedules}
    # All that the network concerns, and the measure of all things, at every round trip; the others in every round.
    assert count == {"none": 48, "sync": 24, "ours": 48}
    assert {(r.round_trip, r.setting) for r in records if r.schedule == "sync"} == {
        (0.0, "4 tokens"),
        (20.0, "4 tokens"),
    }
    assert schedules[2].trips[:2] == [0.0, 0.02]
    assert all(r.same for r in records if r.schedule != "none")


def test_each_round_has_questions_of_its_own() -> None:
    asked = {name: [Question([], [number, at]) for at in range(4)] for number, name in enumerate(("chat", "json"))}
    heard: list[list[int]] = []

    class Listening(Scripted):
        def answer(self, question: Question, n: int, temperature: float, seed: int) -> Answer:
            heard.append(list(question.prompt))
            return super().answer(question, n, temperature, seed)

    plan = Workload(16, 2, [0.0], [0.0], 2)
    blocks = list(Trial([Listening("none")], asked, Question([], [9]), plan, lambda words: None).run())
    assert heard == [[9], [0, 0], [0, 1], [1, 0], [1, 1], [9], [0, 2], [0, 3], [1, 2], [1, 3]]
    assert [(r.workload, r.question) for r in blocks[1]] == [("chat", 0), ("chat", 1), ("json", 2), ("json", 3)]


def test_nobody_is_always_first() -> None:
    assert [trial.rotated("abc", by)[0] for by in range(4)] == ["a", "b", "c", "a"]
