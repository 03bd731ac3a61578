"""Which keys and tokens a lead asks for, by its flags and its address, and what it tells about them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from duo.errors import AddressError, FileError
from lead.backs.admission import Allowance
from lead.flags import parser
from lead.security.credentials import Access, access, is_loopback


def asked(*flags: str) -> Access:
    return access(parser().parse_args(list(flags)))


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.20", False),
        ("fe80::1", False),
    ],
)
def test_loopback(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
    needed = asked("--host", host)
    assert bool(needed.keys) is bool(needed.tokens) is not alone
    assert needed.made == {*needed.keys, *needed.tokens}
    assert asked("--host", host, "--insecure") == Access()


def test_what_is_given_is_needed_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("three\n\n  four  \n")
    keys = ("--api-key", "one, two", "--api-key-file", str(file))
    assert asked(*keys).keys == ("one", "two", "three", "four")
    assert asked(*keys).tokens == ()
    wide = asked(*keys, "--host", "0.0.0.0")
    assert wide.keys == ("one", "two", "three", "four")
    assert set(wide.tokens) == wide.made
    assert asked("--token", "t", "--insecure", "--host", "0.0.0.0").tokens == ("t",)


@pytest.mark.usefixtures("users_files")
def test_made_ones_last_from_one_start_to_the_next() -> None:
    """They were new at each start, so every back and every client had to be told again."""
    many = [asked("--host", "0.0.0.0") for _ in range(3)]
    made = {secret for one in many for secret in one.made}
    assert len(made) == 2
    assert all(len(secret) >= 32 and secret.isalnum() for secret in made)
    other = asked("--host", "0.0.0.0", "--new-secrets")
    assert made.isdisjoint(other.made) and len(other.made) == 2
    assert asked("--host", "0.0.0.0") == other
    assert asked("--host", "0.0.0.0", "--token", "t") == Access(other.keys, ("t",), frozenset(other.keys))


def test_nothing_is_kept_where_nothing_is_made(users_files: Path) -> None:
    asked()
    asked("--host", "0.0.0.0", "--insecure")
    asked("--host", "0.0.0.0", "--api-key", "k", "--token", "t")
    assert not [*users_files.rglob("*.json")]


def test_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match=r"--host no\.such\.host\.invalid"):
        is_loopback("no.such.host.invalid")
    with pytest.raises(FileError, match="empty"):
        asked("--token-file", os.devnull)
    with pytest.raises(FileError, match="no such file"):
        asked("--api-key-file", str(tmp_path / "missing"))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match=r"--api-key-file .*keys: it is not text in UTF-8"):
        access(parser().parse_args(["--api-key-file", str(tmp_path / "keys")]))


def test_a_secret_that_is_none_is_not_taken_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    """As of variables that are not set: the lead would need no key though one was asked for."""
    for flag in ("--api-key", "--token"):
        for given in (",", " ", " , ,"):
            with pytest.raises(SystemExit):
                asked(flag, given)
            assert "more than spaces and commas" in capsys.readouterr().err


def test_a_name_that_cannot_be_one() -> None:
    with pytest.raises(AddressError, match=r"--host 192\.168\.1\.\.20: it cannot be the name of a host"):
        is_loopback("192.168.1..20")


def test_allowance() -> None:
    """A second's worth at once, and then as much per second, however long nothing was taken."""
    allowance = Allowance(10, 100.0)
    assert allowance.takes(10, 100.0)
    assert not allowance.takes(1, 100.0)
    assert allowance.takes(5, 100.5)
    assert not allowance.takes(6, 101.0)
    assert allowance.takes(5, 101.0)
    assert not allowance.takes(11, 1000.0)
    assert allowance.takes(10, 1000.0)
