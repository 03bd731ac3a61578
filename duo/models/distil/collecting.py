"""Collects lessons: lets the target answer, for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from duo.engines.answering import Answer
from duo.engines.base import Engine, Logits
from duo.errors import ContextError
from duo.models.distil.asking import TEMPERATURES, Questions, answered
from duo.models.distil.lessons import Lesson, Places, taught
from duo.models.distil.run import Run
from duo.program.answer_log import Logged

HELD = 24
"""Most answers by which the draft is judged. They come first."""
HELD_SHARE = 0.15
"""They take at most this share of the time."""
ROUNDS = 4
"""Prompts at once, for each slot: so slots are seldom empty."""
PATIENCE = 16
"""After so many rounds without an answer, the target has nothing to say."""

Progress = Callable[[float, int], None]
"""Is told the share of the time that is over, and how many tokens there are."""


def collect(
    target: Engine, given: Sequence[Sequence[int]], log: Sequence[Logged], run: Run, seconds: float, most: int,
    progress: Progress,
) -> None:  # fmt: skip
    """Lets the target answer until the run has used this many seconds for it, or until there is anything to learn.

    given: prompts to ask first. most: tokens of an answer. Raises FileError. What was done is saved also if the program
    is stopped.
    """
    begun = time.monotonic() - run.answering
    shelf, held = run.shelf, run.held
    questions = Questions(target, given, run.plan.seed, run.asked)
    tokens, patience, judged = sum(it.size for it in shelf.read()), PATIENCE, bool(held.read())
    try:
        for it in log[run.logged :]:
            run.logged += 1
            if it.vocabulary == target.vocabulary.fingerprint and it.prompt and it.answer and not _over(begun, seconds):
                shelf.add(_relearned(target, it))
        while patience and (not _over(begun, seconds) or not tokens):
            asked = questions.next(ROUNDS * target.slots if judged else HELD)
            lessons: list[Lesson] = []
            for lesson in _lessons(target, asked, TEMPERATURES if judged else (0.0,), run, most):
                lessons.append(lesson)
                tokens += lesson.size if judged else 0
                progress(min(1.0, (time.monotonic() - begun) / seconds), tokens)
                if _over(begun, seconds if judged else HELD_SHARE * seconds) and (tokens or not judged):
                    break
            (shelf if judged else held).add(lessons)
            judged = True
            patience = PATIENCE if lessons else patience - 1
            run.asked = questions.asked
    finally:
        run.answering = time.monotonic() - begun
        run.save()


def _over(begun: float, seconds: float) -> bool:
    return time.monotonic() - begun >= seconds


def _lessons(
    target: Engine, asked: Sequence[Sequence[int]], temperatures: Sequence[float], run: Run, most: int
) -> Iterator[Lesson]:
    """What the target answers, with what it gave for each place."""
    places: dict[int, Places] = {}

    def seen(answer: Answer, logits: Logits) -> None:
        places.setdefault(answer.number, Places()).add(logits)

    for answer in answered(target, asked, temperatures, (run.plan.seed << 16) + run.asked, most, seen):
        yield places.pop(answer.number).lesson(answer.asked.prompt, answer.tokens)


def _relearned(target: Engine, it: Logged) -> list[Lesson]:
    """A lesson from an answer of a log; none if it is too long."""
    try:
        return [taught(target, it.prompt, it.answer)]
    except ContextError:
        return []
