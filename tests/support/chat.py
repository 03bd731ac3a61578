"""chat.py as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import chat

CHAT = Path(chat.__file__)

SUMMARY_LINE = "3.0 tokens/s · 6 tokens · 3 of 5 guesses accepted (60%)"


def pipe(*arguments: str, questions: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHAT), *arguments]
    return subprocess.run(
        command, input=questions, capture_output=True, encoding="utf-8", timeout=30, check=False, env=ENVIRONMENT
    )


# A dumb terminal sends no control sequences, and UTF-8 must not depend on where the tests run.
ENVIRONMENT = {**os.environ, "TERM": "dumb", "PYTHONUTF8": "1", "COLUMNS": "120"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
