"""What the tests of the HTTP side share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.support.http import PATIENCE


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def claude(url: str) -> Iterator[Anthropic]:
    """Anthropic's own client."""
    with Anthropic(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client
