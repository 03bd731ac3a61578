"""The commands that a lead prints for other machines work as they are printed."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

import back.__main__
from lead.flags import parser
from lead.security import joining as joining_module
from lead.security.credentials import Access
from lead.security.joining import Commands, http_address, joining, reachable

MADE = Access(("k",), ("t",), frozenset("kt"))
GIVEN = Access(("secret",), ("secret",))
LAN = ("--host", "192.168.1.20")


def printed(flags: Sequence[str], access: Access = MADE, program: str = "/x/lead/__main__.py") -> Commands | None:
    return joining(parser().parse_args(list(flags)), access, 5555, 5556, program, secrets=True)


def test_secrets_that_were_made_are_in_them_and_those_that_were_given_are_not() -> None:
    assert printed(LAN) == Commands(
        "python -m back --lead 192.168.1.20:5556 --token t",
        "python chat.py http://192.168.1.20:5555 --api-key k",
    )
    tls = ("--host", "fd00::1", "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a")
    assert printed(tls, GIVEN) == Commands(
        "python -m back --lead '[fd00::1]:5556' --token TOKEN --tls-ca ca.pem --tls-cert back.pem "
        "--tls-key back-key.pem",
        "python chat.py 'https://[fd00::1]:5555' --api-key KEY --tls-ca ca.pem",
    )
    assert printed(LAN, Access()) == Commands(
        "python -m back --lead 192.168.1.20:5556", "python chat.py http://192.168.1.20:5555"
    )


def test_for_other_eyes_they_hold_no_secrets() -> None:
    found = joining(parser().parse_args([*LAN]), MADE, 5555, 5556, "lead")
    assert found == Commands(
        "python -m back --lead 192.168.1.20:5556 --token TOKEN",
        "python chat.py http://192.168.1.20:5555 --api-key KEY",
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_there_are_none_where_no_other_machine_reaches_the_lead(host: str) -> None:
    assert printed(("--host", host)) is None


@pytest.mark.parametrize("program", ["/usr/bin/duo-lead", "duo-lead", "duo-lead.exe"])
def test_an_installed_lead_names_installed_programs(program: str) -> None:
    found = printed(LAN, program=program)
    assert found and found.back.startswith("duo-back --lead ") and found.chat.startswith("duo-chat http://")


@pytest.mark.parametrize(
    ("flags", "draft"),
    [
        ((), ""),
        (("-m", "Qwen/Qwen3-8B"), "-m auto"),
        (("-hf", "Qwen/Qwen3-8B-GGUF"), "-m auto"),
        (("-m", "a.gguf", "-md", "/models/draft.gguf"), "-m auto"),
        (("-m", "a.gguf", "-md", "shipped"), "-m auto"),
        (("-m", "a.gguf", "-md", "Qwen/Qwen3-0.6B"), "-m Qwen/Qwen3-0.6B"),
        (("-m", "a.gguf", "-md", "qwen3:0.6b"), "-m qwen3:0.6b"),
        (("-m", "a.gguf", "-hfd", "Qwen/Qwen3-0.6B-GGUF:Q8_0"), "-hf Qwen/Qwen3-0.6B-GGUF:Q8_0"),
    ],
)
def test_they_name_a_draft_that_another_machine_can_find(flags: Sequence[str], draft: str) -> None:
    """Without -m a back drafts with the shipped model, which no other target takes."""
    found = printed((*LAN, *flags))
    assert found and found.back.partition("python -m back ")[2].partition("--lead")[0].strip() == draft


def test_a_draft_on_the_lead_s_disk_is_on_no_other_machine(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    found = printed((*LAN, "-m", "a.gguf", "-md", str(tmp_path / "own")))
    assert found and " -m auto " in found.back


@pytest.mark.parametrize("flags", [LAN, ("--host", "fd00::1"), (*LAN, "-m", "a.gguf", "-md", "my-org/x.y")])
def test_a_back_takes_its_line(flags: Sequence[str]) -> None:
    found = printed(flags)
    assert found
    args = back.__main__.parser().parse_args(shlex.split(found.back)[3:])
    assert args.token == "t" and args.lead.endswith(":5556")


def address(*flags: str) -> str:
    return http_address(parser().parse_args([*flags]), 5555)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_an_address_that_can_be_opened(host: str) -> None:
    """http://0.0.0.0:5555 opens in few browsers, and on no other machine."""
    found = address("--host", host)
    assert "0.0.0.0" not in found and "[::]" not in found and "//:" not in found


def test_an_address_that_was_given_stays() -> None:
    assert address() == "http://127.0.0.1:5555"
    assert address("--host", "fd00::1", "--tls-cert", "c") == "https://[fd00::1]:5555"
    assert reachable("lead.lan") == "lead.lan"


def test_a_machine_on_one_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system then knows no way to the address that is tried."""

    class Nowhere:
        def __init__(self, *kind: int) -> None: ...
        def __enter__(self) -> Nowhere:
            return self

        def __exit__(self, *error: object) -> None: ...
        def connect(self, address: tuple[str, int]) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", Nowhere)
    monkeypatch.setattr(joining_module, "get_all_addresses", lambda: ["127.0.0.1", "169.254.3.4", "10.1.2.3"])
    assert reachable("0.0.0.0") == "10.1.2.3"
    six = [(("::1", 0, 0), 1), (("fe80::1", 0, 2), 2)]
    monkeypatch.setattr(joining_module, "get_all_addresses_v6", lambda: six)
    assert reachable("::") == "10.1.2.3"
    six.append((("fd00::2", 0, 0), 2))
    assert reachable("::") == "fd00::2"
    monkeypatch.setattr(joining_module, "get_all_addresses", lambda: ["127.0.0.1"])
    assert reachable("0.0.0.0") == socket.gethostname()
