"""The whole HTTP side: its limit on bodies, and the example in examples/."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import requests

import lead
from lead.http.site import BODY_LIMIT
from tests.support.api import CHAT, error_of, post
from tests.support.http import PATIENCE, ScriptedAnswerer


def test_too_large(url: str, answerer: ScriptedAnswerer) -> None:
    def body(size: int) -> bytes:
        frame = b'{"messages":[{"role":"user","content":"Hi"}]%s}'
        return frame % (b" " * (size - len(frame) + 2))

    assert len(body(BODY_LIMIT)) == BODY_LIMIT
    assert post(url, raw=body(BODY_LIMIT)).status_code == 200
    assert str(BODY_LIMIT) in error_of(post(url, raw=body(BODY_LIMIT + 1)), 413)["message"]

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (BODY_LIMIT // 10)

    chunked = requests.post(url + CHAT, data=endless(), timeout=PATIENCE)
    error_of(chunked, 413)


def test_openai_example(url: str, answerer: ScriptedAnswerer) -> None:
    script = Path(lead.__file__).parents[1] / "examples" / "openai_client.py"
    command = [sys.executable, str(script), f"{url}/v1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    figures = "(11 prompt tokens, 6 completion tokens, 3 guesses accepted, 2 rejected)"
    assert run.stdout.count(f"Hello, world!\n{figures}\n") == 2
