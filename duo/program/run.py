"""Runs a program: its event loop, its worker threads, and its end."""

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


def run(program: Callable[[], Coroutine[Any, Any, None]], verbose: bool) -> int:
    """Run a program to its end and return its exit code. A DuoError becomes one line on standard error."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in ("httpx", "httpx2", "asyncio", "uvicorn", "grpc", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return exit_code(lambda: asyncio.run(_until_stopped(program)))


def exit_code(program: Callable[[], None]) -> int:
    """Run a program to its end. An error becomes one line. Returns the exit code."""
    try:
        program()
    except DuoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _workers() -> ThreadPoolExecutor:
    """Threads for blocking work. All start at once, so that a growing number of threads means a leak."""
    pool = ThreadPoolExecutor(WORKERS, "worker")
    together = threading.Barrier(WORKERS)
    for _ in range(WORKERS):
        pool.submit(together.wait)
    return pool


async def _until_stopped(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the program until it ends. Ctrl-C and SIGTERM cancel it, and a second one kills the process.

    A cancelled program has closed all that it had open. Then the process exits at once, because a thread may still be
    loading a model. Nothing can interrupt that, and it may take minutes.
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
