"""What a person may give as --lead."""

from __future__ import annotations

import argparse

import pytest

from back.address import address


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("auto", "auto"),
        ("attic", "attic:5556"),
        ("attic.local:7000", "attic.local:7000"),
        (" 192.168.1.20:5556/", "192.168.1.20:5556"),
        ("::1", "[::1]:5556"),
        ("fd00::2", "[fd00::2]:5556"),
        ("fe80::1%eth0", "[fe80::1%eth0]:5556"),
        ("[fd00::2]", "[fd00::2]:5556"),
        ("[fd00::2]:7000", "[fd00::2]:7000"),
        ("spare_one:5556", "spare_one:5556"),
    ],
)
def test_addresses(given: str, found: str) -> None:
    assert address(given) == found


@pytest.mark.parametrize(
    "given", ["", " ", ":5556", "a b", "attic:", "attic:port", "attic:0", "attic:99999", "a..b", "*"]
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not HOST:PORT"):
        address(given)


def test_a_url_is_not_the_address_of_a_lead_for_backs() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="leave http:// away, and name the back port"):
        address("http://192.168.1.20:5555")
