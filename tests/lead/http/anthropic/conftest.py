"""What the tests of Anthropic's API share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anthropic import Anthropic

from tests.support.http import PATIENCE


@pytest.fixture
def claude(url: str) -> Iterator[Anthropic]:
    """The vendor's own client."""
    with Anthropic(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client
