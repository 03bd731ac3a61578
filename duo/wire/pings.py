"""Pings and pongs of one side of a stream."""

from __future__ import annotations

from collections.abc import Iterator

from duo.wire.messages import MAX_WAITING_PINGS, PING_EVERY


class Pings:
    """Answers the other side's pings and measures its own. A ping's value is the sender's clock in nanoseconds."""

    def __init__(self, now: float, probes: int = 0) -> None:
        """`probes`: pings that follow one another at once, each after the pong to the one before."""
        self._sent_at = now
        self._value: int | None = None
        """Of the ping that has no pong yet."""
        self._probes = probes
        self.waiting: list[int] = []
        """Values of pings that the other side sent, without their pongs."""

    def came(self, value: int) -> None:
        if len(self.waiting) < MAX_WAITING_PINGS:
            self.waiting.append(value)

    def answers(self) -> Iterator[int]:
        """Values for pongs, each once."""
        while self.waiting:
            yield self.waiting.pop(0)

    def answered(self, value: int) -> float | None:
        """A pong came. Returns when its ping left, in seconds; None if it does not answer the last ping."""
        if value != self._value:
            return None
        self._value = None
        return value / 1e9

    def due(self, now: float) -> int | None:
        """The value of a ping to send now; None if it is not time."""
        probing = self._probes > 0 and self._value is None
        if now - self._sent_at < PING_EVERY and not probing:
            return None
        self._sent_at = now
        self._probes -= probing
        self._value = int(now * 1e9)
        return self._value
