"""The lead's live view on a terminal: slots, backs, queue, and the newest words of the answers under way.

It is redrawn at most four times a second, and only after a change. The event loop shares the interpreter with the
decode loop, so a frame is plain text with a simple layout, which takes two milliseconds. Log lines and other output
appear above the view.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import rich.live
from rich.cells import cell_len, set_cell_size
from rich.console import Console as Terminal
from rich.file_proxy import FileProxy
from rich.text import Text

from lead.api import Answerer, BackView, Piece, SlotView

log = logging.getLogger("lead")

FRAME_SECONDS = 0.25
GUESS_SECONDS = 4.0
"""Time over which the guesses per second of a back are averaged."""
TAIL = 2000
"""Characters kept of an answer. A screen shows fewer."""
LOG_LINES = 4
"""Lines of the terminal left for the output above the view."""
RUN = 40
"""Characters of a part before a new one begins."""


_CONTROLS = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def shown(text: str) -> str:
    """Remove control characters, which could change the terminal, and nothing else."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def folded(tokens: int) -> str:
    """What takes the place of thinking that has ended."""
    return f"thought for {tokens} tokens"


@dataclass(slots=True)
class _Words:
    """The newest text of an answer, as parts (text, style). thought: tokens of thinking under way."""

    parts: deque[tuple[str, str]] = field(default_factory=deque)
    length: int = 0
    thought: int = 0

    def take(self, piece: Piece) -> None:
        if piece.thought:
            self.thought += piece.token is not None
        elif self.thought and piece.text.strip():
            line, self.thought = folded(self.thought), 0
            self.parts.clear()
            self.length = 0
            self.add(f"{line}\n", "dim")
        if text := shown(piece.text):
            self.add(text, "dim" if piece.thought else "green" if piece.backs else "")

    def add(self, text: str, style: str) -> None:
        self.length += len(text)
        if self.parts and self.parts[-1][1] == style and len(self.parts[-1][0]) < RUN:
            # Drawing few long parts is faster than many short ones.
            text = self.parts.pop()[0] + text
        self.parts.append((text, style))
        while self.length - len(self.parts[0][0]) > TAIL:
            self.length -= len(self.parts.popleft()[0])

    def last_lines(self, terminal: Terminal, count: int) -> list[Text]:
        """At most `count` lines, not wider than the terminal."""
        newest: list[tuple[str, str]] = []
        room = count * terminal.width
        for part in reversed(self.parts):
            if room <= 0:
                break
            room -= len(part[0])
            newest.append(part)
        lines = Text.assemble(*reversed(newest)).wrap(terminal, terminal.width, tab_size=4)
        return [line for line in lines if line.plain.strip()][-count:]


class Live:
    """Draws the state of `answerer` at the bottom of the terminal. All methods run in the event loop."""

    def __init__(self, terminal: Terminal, answerer: Answerer) -> None:
        self._terminal = terminal
        self._answerer = answerer
        self._began = time.monotonic()
        self._words: dict[int, _Words] = {}
        self._guesses: dict[str, deque[tuple[float, int]]] = {}
        self._live = rich.live.Live(console=terminal, auto_refresh=False)
        self._drawn: Text | None = None
        self._task: asyncio.Task[None] | None = None
        self._handlers: list[logging.StreamHandler[FileProxy]] = []

    def start(self) -> None:
        self._live.start()
        # Log handlers keep the standard error of their creation. The proxy prints above the view.
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "isatty", lambda: False)():
                handler.setStream(FileProxy(self._terminal, handler.stream))
                self._handlers.append(handler)
        self._task = asyncio.get_running_loop().create_task(self._keep_drawing())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for handler in self._handlers:
            handler.setStream(handler.stream.rich_proxied_file)  # type: ignore[arg-type]
        self._live.stop()

    def began(self, answer: int) -> None:
        self._words[answer] = _Words()

    def pieces(self, answer: int, pieces: Sequence[Piece]) -> None:
        words = self._words[answer]
        for piece in pieces:
            words.take(piece)

    def finished(self, answer: int, whole: str) -> None:
        """Print `whole`, the answer and its figures with colours, above the view."""
        del self._words[answer]
        self._terminal.print(Text.from_ansi(whole), soft_wrap=True)

    async def _keep_drawing(self) -> None:
        try:
            while True:
                self._draw()
                await asyncio.sleep(FRAME_SECONDS)
        except Exception:
            # Answers do not depend on the view.
            log.exception("the live view has stopped")

    def _draw(self) -> None:
        frame = self.frame(time.monotonic())
        if self._drawn is None or frame != self._drawn or frame.spans != self._drawn.spans:
            self._drawn = frame
            self._live.update(frame, refresh=True)

    def frame(self, now: float) -> Text:
        """The view at this time. It is no wider than the terminal and leaves lines above for the log."""
        width, height = self._terminal.width, max(2, self._terminal.height - LOG_LINES)
        slots, backs = self._answerer.slots(), self._answerer.backs()
        third = max(2, height // 3 - 4)
        lines = [Text("\u2500" * width, style="dim"), self._head(slots, now)]
        lines += [*self._slots(slots, third), *self._backs(backs, third, now)]
        lines.append(Text())
        room = height - 1 - len(lines)
        if self._words and room > 1:
            each = max(1, room // len(self._words) - 1)
            for number in list(self._words)[: room // 2]:
                lines.append(Text(f"answer {number}", style="bold"))
                lines += self._words[number].last_lines(self._terminal, each)
        for line in lines:
            line.truncate(width)
        frame = Text("\n", no_wrap=True, end="").join(lines[: max(1, height - 1)])
        frame.no_wrap, frame.overflow = True, "crop"
        return frame

    def _head(self, slots: Sequence[SlotView], now: float) -> Text:
        line = Text()
        line.append(shown(self._answerer.info.name).replace("\n", " "), style="bold")
        busy = sum(slot.state != "idle" for slot in slots)
        line.append(f" on {self._answerer.info.runtime} · up {_uptime(now - self._began)} · ")
        line.append(f"{busy} of {len(slots)} slots busy · {self._answerer.waiting} waiting")
        return line

    def _slots(self, slots: Sequence[SlotView], max_rows: int) -> list[Text]:
        busy = [slot for slot in slots if slot.state != "idle"]
        if not busy:
            return []
        rows = [
            (
                str(slot.id),
                slot.state,
                f"{slot.prompt_read} of {slot.prompt_tokens}" if slot.state == "reading" else str(slot.prompt_tokens),
                str(slot.completion_tokens),
                f"{slot.tokens_per_second:.1f}" if slot.tokens_per_second else "-",
            )
            for slot in busy
        ]
        return _table(("slot", "state", "prompt", "tokens", "tokens/s"), rows, max_rows, [""] * len(rows))

    def _backs(self, backs: Sequence[BackView], max_rows: int, now: float) -> list[Text]:
        if not backs:
            return [Text(), Text("no back is connected", style="dim")]
        for gone in self._guesses.keys() - {back.name for back in backs}:
            del self._guesses[gone]
        rows = [
            (
                shown(back.name).replace("\n", " "),
                shown(back.model).replace("\n", " "),
                back.state,
                self._speed(back, now),
                str(back.drafted),
                f"{back.accepted / back.drafted:.0%}" if back.drafted else "-",
                "-" if back.round_trip_ms is None else f"{back.round_trip_ms:.1f} ms",
            )
            for back in backs
        ]
        heads = ("back", "model", "state", "verified/s", "verified", "accepted", "round trip")
        styles = [{"silent": "red", "resting": "dim"}.get(back.state, "") for back in backs]
        return [*self._benefit(), *_table(heads, rows, max_rows, styles)]

    def _benefit(self) -> list[Text]:
        benefit = self._answerer.benefit
        return [Text(), Text(benefit.says, style="bold")] if benefit is not None else []

    def _speed(self, back: BackView, now: float) -> str:
        """Verified guesses of the back per second, over the last GUESS_SECONDS."""
        seen = self._guesses.setdefault(back.name, deque())
        seen.append((now, back.drafted))
        while len(seen) > 2 and seen[1][0] <= now - GUESS_SECONDS:
            seen.popleft()
        then, before = seen[0]
        passed = now - then
        return f"{(back.drafted - before) / passed:.0f}" if passed > 0 and back.drafted > before else "-"


MAX_CELLS = 24
"""Maximum width of a column."""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], max_rows: int, styles: Sequence[str]) -> list[Text]:
    """An empty line, the heads, and at most `max_rows` rows. Numbers come last and are aligned right."""
    left = sum(head in ("slot", "back", "model", "state") for head in heads)
    widths = [min(MAX_CELLS, max(cell_len(row[i]) for row in (heads, *rows))) for i in range(len(heads))]

    def line(cells: Sequence[str], style: str) -> Text:
        return Text(
            "  ".join(
                set_cell_size(cell, width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ),
            style=style,
        )

    lines = [
        Text(),
        line(heads, "bold"),
        *(line(row, style) for row, style in zip(rows[:max_rows], styles, strict=False)),
    ]
    if len(rows) > max_rows:
        lines.append(Text(f"and {len(rows) - max_rows} more", style="dim"))
    return lines


def _uptime(seconds: float) -> str:
    minutes = int(seconds // 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
