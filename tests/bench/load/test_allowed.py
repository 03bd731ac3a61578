"""What forward passes allow several clients."""

from __future__ import annotations

import pytest

from bench.harness.models import shipped
from bench.load import allowed
from bench.load.allowed import Allowance


@pytest.mark.slow
def test_what_forward_passes_allow_is_measured_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "PASSES_PER_BLOCK", 2)
    allowance = Allowance(shipped("target", "transformers"), "transformers", [1, 2], "auto")
    for _ in range(2):
        by_users = allowance.measure()
        assert set(by_users) == {1, 2}
        assert by_users[1].line == 1.0
        assert min(by_users[1].apart, *by_users[2]) > 0.0
    allowance.close()
