"""Timelines in a file in Chrome's trace format, which ui.perfetto.dev and chrome://tracing open.

Recording is one append to a queue, cheap enough for the middle of a decode step. Once a second a thread writes JSON, in
slices so short that nobody waits long for the interpreter. The file is an array whose closing bracket may be missing:
the file of a killed program is of use as well.

Times in the files are microseconds by the lead's clock. A back learns from its pings how far the two clocks are apart
(`duo.wire.clock.ClockOffset`) and writes nothing before it knows.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import zlib
from collections import deque
from pathlib import Path
from typing import NamedTuple

from duo.errors import FileError
from duo.trace import UNTRACED, Detail, Trace

log = logging.getLogger("duo")

Json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

WRITE_EVERY = 1.0
"""Seconds between two writes."""

MAX_SLICE = 32
"""Events converted to JSON without a pause. Between two slices other threads can run."""

MAX_WAITING = 200_000
"""Events kept in memory, which matters for a back without a lead. The oldest are dropped."""


class _Event(NamedTuple):
    lane: str
    name: str
    start: float
    end: float | None
    details: dict[str, Detail]


class TraceFile(Trace):
    """Writes a trace. `number`: row of this program in a merged timeline. `ahead`: as in `clock`, None while unknown.

    Raises FileError if the file cannot be written.
    """

    on = True

    def __init__(self, path: str, title: str, number: int, ahead: float | None) -> None:
        self._path = path
        self._number = number
        self._ahead = ahead
        self._events: deque[_Event] = deque(maxlen=MAX_WAITING)
        self._lanes: dict[str, int] = {}
        self._stop = threading.Event()
        try:
            # Without a buffer the file of a killed program ends with a whole line.
            self._file = Path(path).open("wb", buffering=0)  # noqa: SIM115 - closed in `close`
            try:
                self._file.write(b"[\n" + self._about("process_name", title, 0).encode())
            except OSError:
                self._file.close()
                raise
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise FileError(f"cannot write the trace {path}: {reason}; choose another --trace FILE") from None
        self._events.append(_Event("", "process_sort_index", 0.0, None, {"sort_index": number}))
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()

    def span(self, lane: str, name: str, start: float, end: float, **details: Detail) -> None:
        self._events.append(_Event(lane, name, start, end, details))

    def instant(self, lane: str, name: str, at: float, **details: Detail) -> None:
        self._events.append(_Event(lane, name, at, None, details))

    def title(self, name: str) -> None:
        self._events.append(_Event("", "process_name", 0.0, None, {"name": name}))

    def clock(self, ahead: float) -> None:
        self._ahead = ahead

    def close(self) -> None:
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        if self._ahead is None:
            labels: dict[str, Detail] = {"labels": "by its own clock: it met no lead"}
            self._events.append(_Event("", "process_labels", 0.0, None, labels))
        self._save(self._ahead or 0.0)
        self._write(b"\n]\n")
        self._file.close()
        self._events = deque(maxlen=0)

    def _run(self) -> None:
        while not self._stop.wait(WRITE_EVERY):
            if self._ahead is not None:
                self._save(self._ahead)

    def _save(self, ahead: float) -> None:
        while count := min(MAX_SLICE, len(self._events)):
            self._write("".join([self._json(self._events.popleft(), ahead) for _ in range(count)]).encode())

    def _write(self, data: bytes) -> None:
        if self._events.maxlen == 0:
            return
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            log.warning("the trace %s ends here: %s", self._path, (error.strerror or str(error)).lower())
            self._events = deque(maxlen=0)

    def _json(self, event: _Event, ahead: float) -> str:
        lane, name, start, end, details = event
        if not lane:
            return ",\n" + Json({"ph": "M", "name": name, "pid": self._number, "tid": 0, "args": details})
        row = self._lanes.get(lane)
        before = ""
        if row is None:
            row = self._lanes[lane] = 1 + len(self._lanes)
            before = ",\n" + self._about("thread_name", lane, row)
        # Rounded to nanoseconds, so that a span ends exactly where the next one starts.
        at = round((start + ahead) * 1e9)
        what: dict[str, object] = {"name": name, "pid": self._number, "tid": row, "ts": at / 1000}
        if end is None:
            what |= {"ph": "i", "s": "t", "args": details}
        else:
            what |= {"ph": "X", "dur": (round((end + ahead) * 1e9) - at) / 1000, "args": details}
        return f"{before},\n{Json(what)}"

    def _about(self, what: str, name: str, row: int) -> str:
        return Json({"ph": "M", "name": what, "pid": self._number, "tid": row, "args": {"name": name}})


def of_lead(path: str | None) -> Trace:
    """The trace of the lead, UNTRACED without a path. Raises FileError."""
    return TraceFile(path, "lead", 1, 0.0) if path else UNTRACED


def of_back(path: str | None, name: str) -> Trace:
    """The trace of a back, UNTRACED without a path. Raises FileError."""
    if not path:
        return UNTRACED
    # Merged timelines need distinct numbers, and backs on two machines may have the same process id.
    number = 2 + zlib.crc32(f"{name}/{socket.gethostname()}/{os.getpid()}".encode()) % 2**30
    return TraceFile(path, f"back {name}", number, None)
