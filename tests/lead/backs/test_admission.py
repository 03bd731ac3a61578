"""Limits on what one back may do, and what the log says about backs that may not."""

from __future__ import annotations

import pytest

from lead.backs.admission import Allowance, Refusals, host_of


def test_an_allowance_holds_one_second_s_worth() -> None:
    allowance = Allowance(100, now=0.0)
    assert allowance.takes(100, 0.0) and not allowance.takes(1, 0.0)
    assert allowance.takes(50, 0.5) and not allowance.takes(1, 0.5)
    assert not allowance.takes(101, 100.0) and allowance.takes(100, 100.0)


def test_a_refusal_is_logged_once_for_each_back_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for who, reason in (("mini", "too late"), ("mini", "too late"), ("at ::1", "too late"), ("mini", "too early")):
        refusals.log(who, reason)
    assert [record.getMessage() for record in caplog.records] == [
        "back mini refused: too late", "back at ::1 refused: too late", "back mini refused: too early"
    ]  # fmt: skip


def test_the_host_of_a_peer() -> None:
    assert host_of("ipv4:127.0.0.1:1234") == "127.0.0.1"
    assert host_of("ipv6:%5B::1%5D:1234") == "[::1]"
