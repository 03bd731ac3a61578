"""The log of answers: what is written is read again, by its owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from duo.errors import FileError
from duo.program.answer_log import AnswerLog, Logged, logged


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "log"
    for start in (1, 5):  # a second start goes on
        log = AnswerLog(file, "abc")
        log.add([start, 2], [3])
        log.add((start,), range(2))
        log.close()
    assert logged(file) == [
        Logged("abc", [1, 2], [3]), Logged("abc", [1], [0, 1]), Logged("abc", [5, 2], [3]), Logged("abc", [5], [0, 1]),
    ]  # fmt: skip


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch(0o644)
    AnswerLog(file, "").close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = AnswerLog(file, "v", max_bytes=200)
    for number in range(20):
        log.add([number], [1])
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert all(path.stat().st_size <= 200 and stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
    kept = [it.prompt[0] for it in logged(tmp_path / "log.1") + logged(file)]
    assert kept == list(range(kept[0], 20))


@pytest.mark.parametrize(
    "line",
    [
        "nonsense", "[]", '{"vocabulary": "v", "prompt": [1]}', '{"vocabulary": 1, "prompt": [1], "answer": [1]}',
        '{"vocabulary": "v", "prompt": [true], "answer": [1]}', '{"vocabulary": "v", "prompt": [-1], "answer": [1]}',
        '{"vocabulary": "v", "prompt": [1], "answer": [99999999999]}',
    ],
)  # fmt: skip
def test_what_is_no_log_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "log"
    file.write_text('{"vocabulary": "v", "prompt": [1], "answer": []}\n' + line + "\n")
    with pytest.raises(FileError, match="log:2: not"):
        logged(file)
