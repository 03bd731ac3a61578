"""When a program did what, as a timeline in Chrome's trace format, which Perfetto and chrome://tracing open.

To record is one append to a queue, so that it may be done in the middle of a decode step; a thread makes JSON of what
is there once a second, in slices so short that nobody waits long for the interpreter. The file is an array whose
closing bracket may be missing, so that of a program that was killed is of use as well.

Times come in as seconds by `time.perf_counter`. In the files they are microseconds by the lead's clock: a back learns
from its pings how far the two are apart (`duo.wire.clock.ClockOffset`), and writes nothing before it knows.
"""

from __future__ import annotations

import json
import logging
from typing import Self

log = logging.getLogger("duo")


Detail = str | int | float | bool | None
Json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Trace:
    """Keeps nothing: the trace of a program that is not traced.

    `lane`: the row of the timeline, one for each thread or kind of thing. Thread-safe.
    """

    on = False
    """Whether it is worth while to find out what is only recorded."""

    def span(self, lane: str, name: str, start: float, end: float, **details: Detail) -> None:
        """Something took from `start` to `end`."""

    def instant(self, lane: str, name: str, at: float, **details: Detail) -> None:
        """Something happened."""

    def title(self, name: str) -> None:
        """What the program is called in the timeline from now on."""

    def clock(self, ahead: float) -> None:
        """The lead's clock is `ahead` seconds ahead of this program's."""

    def close(self) -> None:
        """Write what is left. Nothing is recorded after."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


UNTRACED = Trace()
