"""The file in which a lead keeps the key and the token that it has made."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from duo.errors import FileError
from lead.security.kept import kept


@pytest.fixture
def file(users_files: Path) -> Path:
    return users_files / "duo" / "access.json"


def test_the_file_is_for_its_owner_alone_and_is_named_at_each_start(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = kept()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert json.loads(file.read_text()) == {"api_key": first.key, "token": first.token}
    assert kept() == first
    assert [str(file) in message and "--new-secrets" in message for message in caplog.messages] == [True, True]
    assert first.key not in caplog.text and first.token not in caplog.text
    assert [path.name for path in file.parent.iterdir()] == ["access.json"]


def test_others_replace_them(file: Path) -> None:
    first = kept()
    second = kept(anew=True)
    assert {*first}.isdisjoint(second) and kept() == second
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_programs_that_start_at_once_agree(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({*pool.map(lambda _: kept(), range(16))}) == 1


def test_a_file_that_others_can_read(file: Path) -> None:
    kept()
    file.chmod(0o640)
    with pytest.raises(FileError, match=rf"other users can read these secrets; run `chmod 600 {file}`"):
        kept()
    kept(anew=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_folder_that_lets_nobody_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look into any folder. So the system's answer is made up."""

    def closed(path: Path, **how: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(FileError, match=r"access\.json: permission denied; mend that, or start with --api-key"):
        kept()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"api_key": "a", "token": 1}', '{"api_key": "", "token": "t"}'])
def test_a_damaged_file(file: Path, content: str) -> None:
    kept()
    file.write_text(content)
    with pytest.raises(FileError, match=r"access\.json is damaged; --new-secrets writes it again"):
        kept()
    assert kept(anew=True) == kept()


def test_no_place_to_keep_them(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A lead starts all the same: in a container the home may be read-only."""
    file.parent.parent.write_text("a file where the folder should be")
    one, other = kept(), kept()
    assert one != other
    assert "for this start only" in caplog.text and str(file) in caplog.text


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert len({*kept()}) == 2
    assert "no home folder" in caplog.text
