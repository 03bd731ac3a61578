"""`python -m lead match`, on pure models, and on the shipped pair."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from duo.engines.meaning import Meanings
from duo.errors import ModelError
from lead.__main__ import main
from lead.match import measured, program
from lead.match.expect import AHEAD
from lead.match.flags import parser
from lead.match.measured import Draft
from lead.plan.limits import Limits
from lead.plan.verify_all import VerifyAll
from lead.target import Target
from tests.support.fakes import FakeModel
from tests.support.slotted import SlottedEngine, Vocabulary

FLAT = {1: 0.1, 2: 0.1, 4: 0.101, 8: 0.102, 17: 0.11}
DOUBTS = {"near.gguf": 0.02, "far.gguf": 0.6}
"""Draft models, by how far they are from the target."""


class Chatting(Vocabulary):
    def chat(self, messages: Any) -> list[int]:
        return [1, *(4 + len(message["content"]) % 5 for message in messages)]

    def decode(self, tokens: Any) -> str:
        return "x" * len(tokens)


def engine(doubt: float) -> Any:
    made = SlottedEngine(FakeModel(doubt), 2)
    made.vocabulary = Chatting()
    return made


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def target(args: Namespace, model: str) -> Iterator[Target]:
        yield Target(engine(0.0), Limits(), VerifyAll(Limits()), "", FLAT)

    @contextmanager
    def draft(args: Namespace, model: str) -> Iterator[Draft]:
        if model not in DOUBTS:
            raise ModelError(f"there is no file {model}; check the path")
        yield Draft(engine(DOUBTS[model]), {1: 0.002, 8: 0.004}, 0.0)

    def meanings(model: str, runtime: str) -> Meanings:
        return Vocabulary.meanings if model != "other.gguf" else [b"?"] * 12

    monkeypatch.setattr(measured, "loaded_target", target)
    monkeypatch.setattr(measured, "loaded_draft", draft)
    monkeypatch.setattr(program, "meanings_in", meanings)
    monkeypatch.setenv("COLUMNS", "200")


def test_the_better_draft_comes_first(fakes: None, capsys: pytest.CaptureFixture[str]) -> None:
    drafts = ("other.gguf", "missing.gguf", "far.gguf", "near.gguf")
    assert main(["match", "big.gguf", *drafts, "--questions", "6", "--tokens", "24"]) == 0
    said = capsys.readouterr().out
    order = [said.index(name) for name in ("near.gguf", "far.gguf", "other.gguf")]
    assert order == sorted(order)
    assert "other.gguf cannot draft: it has another vocabulary: 12 of 12 tokens differ" in said
    assert "missing.gguf cannot draft: there is no file missing.gguf; check the path" in said
    assert "python -m back -m near.gguf --lead HOST:5556 --token TOKEN" in said
    assert "It gave 6 answers" in said


def test_costs_of_another_machine(fakes: None, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--questions", "4", "--tokens", "20")
    assert main(["match", "big.gguf", "near.gguf", *flags, "--draft-ms", "1:5000,8:9000"]) == 0
    said = capsys.readouterr().out
    assert "5e+03 ms" in said and "cost what --draft-ms says" in said
    assert "None of these helps" in said
    assert main(["match", "big.gguf", "near.gguf", "far.gguf", *flags, "--draft-ms", "1:5"]) == 3
    assert "--draft-ms has 1 curves for 2 drafts" in capsys.readouterr().err


def test_prompts_of_a_file(fakes: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"turns": ["one", "and another"]}) + "\n")
    assert main(["match", "big.gguf", "near.gguf", "--prompts", str(file), "--tokens", "8"]) == 0
    said = capsys.readouterr().out
    assert f"It gave 2 answers\nto the prompts of {file}" in said
    assert main(["match", "big.gguf", "near.gguf", "--prompts", str(tmp_path / "none")]) == 3
    assert "no such file" in capsys.readouterr().err


def test_the_flags_are_those_of_lead_and_back() -> None:
    from back.__main__ import parser as back_parser

    given = Namespace(threads=3, device="cpu")
    args = measured.named(given, "m.gguf")
    assert (args.model, args.threads, args.device, args.hf_repo) == ("m.gguf", 3, "cpu", "")
    assert measured.named(given, "shipped").model is None
    back = back_parser().parse_args([])
    assert (back.parallel, back.n_ahead) == (measured.BACK_SLOTS, AHEAD)


def test_the_commands_take_the_flags_that_were_given() -> None:
    from back.__main__ import parser as back_parser

    words = ["--engine", "llamacpp", "-t", "3", "-c", "512", "-ngl", "all", "-fa", "off", "-b", "64"]
    words += ["--device", "cpu", "--dtype", "float32"]
    given = parser().parse_args(["a", "b", *words])
    back = back_parser().parse_args(measured.typed(given))
    assert {name: getattr(back, name) for name in measured.RUNTIME} == {
        name: getattr(given, name) for name in measured.RUNTIME
    }
    assert measured.typed(parser().parse_args(["a", "b"])) == []


@pytest.mark.slow
def test_the_shipped_pair(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flags = ("--engine", "llamacpp", "-t", "1", "--questions", "4", "--tokens", "32")
    assert main(["match", "shipped", "shipped", *flags]) == 0
    said = capsys.readouterr().out
    assert "the same" in said and "Measured: shipped takes 1:" in said
