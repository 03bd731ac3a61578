"""What a draft learns from: written and read again, and the same whether an answer is made or known before."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from duo.engines.answering import Asked, answers
from duo.engines.base import TREES, Engine, Logits, Rollback
from duo.errors import FileError
from duo.models.distil.lessons import TOP, Lesson, Places, Shelf, taught
from duo.sampling.params import SamplingParams
from tests.support.fakes import FakeModel
from tests.support.slotted import CHAINS, EOS, SlottedEngine


def made(rollback: Rollback, prompt: list[int], most: int) -> Lesson:
    engine = SlottedEngine(FakeModel(3), 2, rollback)
    places = Places()
    asked = Asked(prompt, SamplingParams(temperature=0.7, seed=4), most, {EOS})
    (answer,) = answers(cast(Engine, engine), [asked], lambda _, logits: places.add(logits))
    return places.lesson(prompt, answer.tokens)


def same(one: Lesson, other: Lesson) -> bool:
    return one.start == other.start and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "top", "chances")
    )


@pytest.mark.parametrize("rollback", [TREES, CHAINS])
def test_an_answer_that_is_known_teaches_the_same(rollback: Rollback) -> None:
    lesson = made(rollback, [1, 2, 4], 40)
    assert lesson.size > 1
    again = taught(cast(Engine, SlottedEngine(FakeModel(3), 1, rollback)), [1, 2, 4], lesson.tokens[3:].tolist())
    assert same(lesson, again)


def test_the_likeliest_tokens_of_a_place_are_kept() -> None:
    places = Places()
    logits: Logits = np.linspace(-3, 3, 100, dtype=np.float32)
    places.add(logits)
    lesson = places.lesson([7], [99])
    assert lesson.top.tolist() == [list(range(99, 99 - TOP, -1))]
    exact = np.exp(logits) / np.exp(logits).sum()
    assert np.allclose(lesson.chances[0], exact[lesson.top[0]], rtol=1e-3)


def test_lessons_are_kept_in_order(tmp_path: Path) -> None:
    lessons = [made(TREES, [1, 2, token], 5 + token) for token in range(4, 10)]
    for part in (lessons[:1], [], lessons[1:4], lessons[4:]):
        Shelf(tmp_path / "shelf").add(part)  # as other starts would
    found = Shelf(tmp_path / "shelf").read()
    assert len(found) == len(lessons) and all(map(same, lessons, found))
    (tmp_path / "shelf" / "000001.safetensors").write_bytes(b"{}")
    with pytest.raises(FileError, match=r"000001\.safetensors is damaged"):
        Shelf(tmp_path / "shelf").read()
