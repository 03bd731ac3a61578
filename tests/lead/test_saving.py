"""What the flags say about slots and answers that are kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lead.flags
from duo.errors import FileError
from duo.program.values import AUTO, mib_or_auto
from lead.saving import MIB, bytes_of, check, of_flags


def test_bytes_for_prompts() -> None:
    assert bytes_of(AUTO, 1000 * MIB) == 250 * MIB
    assert bytes_of(AUTO, 1 << 40) == 8192 * MIB
    assert bytes_of(AUTO, None) == 0
    assert bytes_of(AUTO, 1000 * MIB, 2) == 125 * MIB and bytes_of(7, 1000, 2) == 7 * MIB
    assert bytes_of(0, 1 << 40) == 0
    assert bytes_of(7, 1000) == 7 * MIB
    assert bytes_of(-1, 1000) == sys.maxsize


def test_the_flag() -> None:
    assert [mib_or_auto(text) for text in ("auto", "-1", "0", "100")] == [AUTO, -1, 0, 100]
    for text in ("-2", "x", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError):
            mib_or_auto(text)


@pytest.mark.parametrize(
    ("words", "level"),
    [([], "INFO"), (["--cache-ram", "9"], "WARNING"), (["--slot-save-path", "/"], "WARNING"), (["-cram", "0"], "")],
)
def test_a_line_says_why_slots_cannot_be_saved(
    words: list[str], level: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lead.saving.memory.available", lambda: 1 << 33)
    monkeypatch.setattr("lead.saving.SlotFolder", lambda *_: None)
    monkeypatch.setattr("lead.saving.models.identity", lambda *_: "")
    engine: Any = SimpleNamespace(
        unsavable="they are too many", name="it", runtime="", layout="", vocabulary=SimpleNamespace(fingerprint="")
    )
    with caplog.at_level("INFO", "lead"):
        assert of_flags(lead.flags.parser().parse_args(words), engine).cache_bytes == 0
    told = [(record.levelname, record.message) for record in caplog.records]
    assert told == ([(level, "it: slots cannot be saved: they are too many")] if level else [])


def test_what_is_kept_must_be_writable(tmp_path: Path) -> None:
    parse = lead.flags.parser().parse_args
    check(parse([]))
    check(parse(["--slot-save-path", str(tmp_path), "--log-answers", str(tmp_path / "log")]))
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(FileError, match="--slot-save-path"):
            check(parse(["--slot-save-path", str(tmp_path / name)]))
    with pytest.raises(FileError, match="cannot write"):
        check(parse(["--log-answers", str(tmp_path)]))
