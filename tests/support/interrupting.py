"""Interrupts an engine over and over from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from duo.engines import Engine


@contextmanager
def interrupting(engine: Engine) -> Iterator[None]:
    over = threading.Event()

    def interrupt() -> None:
        while not over.is_set():
            engine.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
