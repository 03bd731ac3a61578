"""The drafting thread: events come in through a queue, which it empties between two forward passes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from back.drafting import Drafting
from duo.errors import DuoError, ProtocolError
from duo.wire.messages import Event

log = logging.getLogger("back")


class Drafter:
    """Runs `drafting` in a thread.

    failed(error), called from that thread: the stream must be given up. All sessions have been forgotten then.
    """

    def __init__(self, drafting: Drafting, failed: Callable[[DuoError], None]) -> None:
        self.drafting = drafting
        self._failed = failed
        self._events: deque[Event] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="drafter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def hear(self, event: Event) -> None:
        """Called from another thread."""
        with self._wake:
            self._events.append(event)
            self._wake.notify()
        self.drafting.interrupt(event)

    def _run(self) -> None:
        busy = False
        while True:
            with self._wake:
                if not busy:
                    self.drafting.state = "waiting"
                    self._wake.wait_for(lambda: self._events or self._stopping)
                if self._stopping:
                    return
                events = list(self._events)
                self._events.clear()
            try:
                for event in events:
                    self.drafting.hear(event)
                busy = self.drafting.work()
            except Exception as error:
                if not isinstance(error, ProtocolError):
                    log.exception("drafting failed")
                    error = ProtocolError("drafting failed, as logged above; this is a fault of duo or of the runtime")
                busy = False
                self.drafting.forget()
                self._failed(error)
