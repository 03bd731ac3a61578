"""`python -m bench load`: its arithmetic, and a short run of the whole."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench.load.allowed import Allowed
from bench.load.load import Cell, Sample
from duo.errors import DuoError


def test_of_an_answer_those_tokens_count_that_come_while_it_is_measured() -> None:
    sample = Sample(question=0, asked=9.0, first=10.0, ended=20.0, tokens=50, accepted=0, text="")
    assert sample.share(0.0, 30.0) == pytest.approx(50)
    assert sample.share(15.0, 30.0) == pytest.approx(25)
    assert sample.share(12.0, 14.0) == pytest.approx(10)
    assert sample.share(20.0, 30.0) == 0


def test_a_measurement_without_a_token_is_too_short() -> None:
    late = Sample(question=0, asked=9.0, first=10.0, ended=20.0, tokens=50, accepted=0, text="")
    with pytest.raises(DuoError, match="measure longer"):
        Cell().add([late], 1.0, 2.0, Allowed(1.0, 1.0))
    once = Cell()
    for begin in (10.0, 0.0):  # a later one spoils nothing of what was measured before
        once.add([late], begin, begin + 5.0, Allowed(1.0, 1.0))
    assert once.over(once).value == 1.0 and once.of_allowed(once, lambda it: it.line).value == 1.0


def test_a_ratio_says_how_sure_it_is_once_there_are_enough_rounds() -> None:
    one, eight = Cell(tokens=[10.0, 20.0, 10.0], seconds=3.0), Cell(tokens=[40.0, 40.0, 40.0], seconds=3.0)
    assert str(eight.over(one)) == "3.00"
    one.tokens.append(20.0)
    eight.tokens.append(40.0)
    one.seconds = eight.seconds = 4.0
    value, error = eight.over(one)
    assert value == pytest.approx(160 / 60)
    assert error == pytest.approx(1.1547 / 2, rel=1e-4)  # of 4, 2, 4, 2


def test_what_the_costs_allow_is_held_against_the_round_in_which_it_was_measured() -> None:
    """If two rows become slower between two rounds, that is not the lead's fault."""
    one = Cell(tokens=[10.0, 10.0], seconds=2.0, allowed=[Allowed(1.0, 1.0), Allowed(1.0, 1.0)])
    two = Cell(tokens=[18.0, 9.0], seconds=2.0, allowed=[Allowed(2.0, 1.8), Allowed(1.0, 0.9)])
    assert two.of_allowed(one, lambda it: it.line).value == pytest.approx(0.9)
    assert two.of_allowed(one, lambda it: it.apart).value == pytest.approx(1.0)


def test_a_command_that_is_told_to_stop_takes_what_it_started_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    def measured(args: argparse.Namespace) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            return 0
        finally:
            stopped.append("the leads")

    monkeypatch.setattr("bench.load.load.main", measured)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert bench.main(["load"]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped == ["the leads"]


@pytest.mark.slow
def test_a_short_run_finds_no_text_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "questions.jsonl", tmp_path / "figures.json"
    questions = ["What does shutil.copytree do?", "Which module has namedtuple?"]
    data.write_text("".join(json.dumps({"turns": [question]}) + "\n" for question in questions))
    flags = ["--data", str(data), "-o", str(output), "--vu", "1,3", "--rounds", "1", "--seconds", "2"]
    assert bench.main(["load", *flags, "--max-tokens", "16"]) == 0
    said = capsys.readouterr().out
    assert "0 answers that are not what the same question gives alone" in said
    assert "req/s" in said
    figures = json.loads(output.read_text())
    assert [(row["users"], row["lead"]) for row in figures] == [
        (1, "no back"), (1, "with backs"), (3, "no back"), (3, "with backs"),
    ]  # fmt: skip
    assert all(row["wrong"] == 0 and row["tokens_per_second"] > 0 for row in figures)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--data", "nowhere.jsonl"], 3, "cannot read nowhere.jsonl: no such file or directory"),
        (["--size", "9"], 1, "size '9' is not understood; write it like 1B, 0.3B, 60M or 120L"),
        (["--size", "0.3B-q9"], 1, "'q9' is not a type to pad to: bf16 or q8_0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["load", *flags]) == code
    assert capsys.readouterr().err == f"error: {said}\n"
