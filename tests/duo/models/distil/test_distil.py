"""The program as a whole, with the shipped draft model as a target: it is small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from duo import models
from duo.engines import EngineOptions, load
from duo.models.distil import __main__ as program
from duo.models.distil.asking import MARK, Questions, turn_of
from duo.models.distil.run import Plan, begin
from duo.program.answer_log import AnswerLog

TARGET = str(models.DRAFT)


@pytest.fixture(autouse=True)
def no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lead match` has tests of its own."""
    monkeypatch.setattr(program, "_judge", lambda *_: None)


def words(out: Path, *more: str, minutes: str = "0.05") -> list[str]:
    return ["-m", TARGET, "--minutes", minutes, "--out", str(out), "-t", "1", "--tokens", "12", *more]


def test_a_target_writes_its_own_questions() -> None:
    engine = load(TARGET, "transformers", EngineOptions(threads=1, slots=4, context=256))
    turn = turn_of(engine.vocabulary)
    assert turn is not None
    whole = engine.vocabulary.chat([{"role": "user", "content": MARK}])
    assert whole[: len(turn.opening)] == list(turn.opening) and turn.end in whole
    one, other = (Questions(engine, [[1, 2]], seed=3, asked=0) for _ in range(2))
    first = one.next(6)
    assert first[0] == [1, 2] and len(first) > 1 and one.asked == 6
    assert all(list(prompt[: len(turn.opening)]) == list(turn.opening) for prompt in first[1:])
    assert other.next(6) == first and one.next(6) != first
    engine.close()


@pytest.mark.slow
def test_a_draft_is_made_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, log, out = tmp_path / "prompts.jsonl", tmp_path / "log", tmp_path / "out"
    prompts.write_text(json.dumps({"turns": ["What does len do?"]}))
    engine = load(TARGET, "transformers", EngineOptions(threads=1, context=256))
    answers = AnswerLog(log, engine.vocabulary.fingerprint)
    answers.add(engine.vocabulary.chat([{"role": "user", "content": "Hello"}]), [5, 6, 7])
    answers.close()
    more = ("--prompts", str(prompts), "--from-log", str(log), "--layers", "1")
    assert program.main(words(out, *more)) == 0
    assert "learned from" in capsys.readouterr().out
    draft = load(str(out), "transformers", EngineOptions(threads=1, context=64))
    assert draft.vocabulary.fingerprint == engine.vocabulary.fingerprint
    shelf = begin(out, Plan(TARGET, 1, 0, 0)).shelf.read()
    assert [5, 6, 7] in [it.tokens[it.start :].tolist() for it in shelf], "the log was learned too"
    weights = (out / "model.safetensors").read_bytes()
    assert program.main(words(out, *more)) == 0, "it is finished already"
    assert (out / "model.safetensors").read_bytes() == weights
    engine.close()
    draft.close()


def test_what_cannot_be_used_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("!")
    begin(tmp_path / "other", Plan(TARGET, 7, 0, 0))
    (tmp_path / "broken" / "distil").mkdir(parents=True)
    (tmp_path / "broken" / "distil" / "run.json").write_text("{}")
    (tmp_path / "file").touch()
    for name, said in (
        ("mine", "this program did not make it"), ("other", "made with other flags"), ("broken", "is damaged"),
        ("file", "this program did not make it"), ("file/below", "cannot use"),
    ):  # fmt: skip
        assert program.main(words(tmp_path / name)) == 3
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert program.main(["-m", str(tmp_path / "none"), "--minutes", "1", "--out", str(tmp_path / "new")]) == 1
    with pytest.raises(SystemExit):
        program.main(words(tmp_path / "new", minutes="0"))
    assert "minutes over 0" in capsys.readouterr().err
