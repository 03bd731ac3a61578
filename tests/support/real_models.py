"""The real models of `bench.harness.real`, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.harness import real
from bench.harness.models import Runtime


def real_model(name: real.Name, runtime: Runtime, weights: real.Weights | None = None) -> Path:
    """As `real.model`. If the model cannot be fetched, the test is skipped and says why."""
    try:
        return real.model(name, runtime, weights)
    except real.UnavailableError as error:
        pytest.skip(str(error))
