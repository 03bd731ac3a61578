"""What a program did when: the interface of timelines. `duo.program.trace_file` writes them.

Times are seconds by `time.perf_counter`.
"""

from __future__ import annotations

from typing import Self

Detail = str | int | float | bool | None


class Trace:
    """Keeps nothing: the trace of a program that is not traced. Thread-safe.

    `lane`: the row of the timeline, one for each thread or kind of thing.
    """

    on = False
    """Check this before computing what is only recorded."""

    def span(self, lane: str, name: str, start: float, end: float, **details: Detail) -> None:
        """Something took from `start` to `end`."""

    def instant(self, lane: str, name: str, at: float, **details: Detail) -> None:
        """Something happened."""

    def title(self, name: str) -> None:
        """The program's name in the timeline from now on."""

    def clock(self, ahead: float) -> None:
        """The lead's clock is `ahead` seconds ahead of this program's."""

    def close(self) -> None:
        """Write what is left. Nothing is recorded after this."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


UNTRACED = Trace()
