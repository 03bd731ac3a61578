"""Runs a program: its event loop, its threads, and how it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from duo.errors import DuoError

WORKERS = 4

GARBAGE = 20_000
"""New objects after which the collector looks for circles among them. Usual are 700, which is every few steps."""


def run(program: Callable[[], Coroutine[Any, Any, None]], verbose: bool) -> int:
    """Run a program to its end; returns its exit code. Errors that a person can mend are one line."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in ("httpx", "asyncio", "uvicorn", "grpc", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        asyncio.run(_until_stopped(program))
    except DuoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _workers() -> ThreadPoolExecutor:
    """Threads for what would hold up everybody else, all of them from the start: if their number grows, it leaks."""
    pool = ThreadPoolExecutor(WORKERS, "worker")
    together = threading.Barrier(WORKERS)
    for _ in range(WORKERS):
        pool.submit(together.wait)
    return pool


async def _until_stopped(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the program; Ctrl-C and SIGTERM cancel it, which is its clean end. A second one kills.

    A program that was cancelled has closed all that it had open, and the process ends with it: a thread may still be
    loading a model, which takes minutes and cannot be interrupted.
    """
    task = asyncio.ensure_future(program())
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_workers())
    stopping = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
