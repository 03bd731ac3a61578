"""What the flags say about slots that are kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from duo.errors import FileError
from duo.program.values import AUTO, mib_or_auto
from lead.saving import MIB, bytes_of, check_folder


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


def test_a_folder_must_be_there(tmp_path: Path) -> None:
    check_folder("")
    check_folder(str(tmp_path))
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(FileError, match="--slot-save-path"):
            check_folder(str(tmp_path / name))
