"""Prints answers at the terminal of the lead as they come, with figures after each.

On a terminal a live view (`lead.console.live`) shows the newest text of all answers. A finished answer is printed above
it. Without a terminal, one answer is printed as it comes and the others after it, so that they do not mix. Accepted
guesses are green and rejected ones, in print mode `all`, red. Tokens that nobody guessed are plain. Thinking is dim. In
a finished answer above the live view, one line stands for it. rich decides about colours, by the terminal and by
NO_COLOR and FORCE_COLOR.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console as Terminal

from lead.api import Answerer, Observer, Piece, Speedup, Summary
from lead.console.live import Live, folded, shown

log = logging.getLogger("lead")

PrintMode = Literal["none", "accepted", "all"]

_GREEN, _RED, _DIM, _OFF = "\x1b[32m", "\x1b[31;9m", "\x1b[2m", "\x1b[0m"


class Console(Observer):
    """Writes the answers to standard output. Everything here runs in the event loop."""

    def __init__(self, mode: PrintMode) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # its file may be another one by now
                sys.stdout.reconfigure(errors="replace")  # its encoding may lack a character of an answer
        self.reads = mode != "none"
        self._shows_rejected = mode == "all"
        self._terminal = Terminal()
        self._colours = self._terminal.color_system is not None
        self._can_live = self.reads and self._terminal.is_terminal and not self._terminal.is_dumb_terminal
        self._live: Live | None = None
        self._text: dict[int, list[str]] = {}
        """Text not printed yet, by answer under way, in order of their start."""
        self._thought: dict[int, int] = {}
        """Tokens of thinking that is under way or has just ended, by answer. Only with the live view."""
        self._streamed: int | None = None
        """The answer under way that is printed as it comes."""
        self._waiting: list[str] = []
        """Finished answers that wait for the end of `_streamed`."""

    def watch(self, answerer: Answerer) -> None:
        """Start the live view, if this is a terminal. Called once the model is loaded."""
        if self._can_live:
            self._live = Live(self._terminal, answerer)
            self._live.start()

    async def stop(self) -> None:
        """End the live view, if there is one, and restore the terminal."""
        if self._live is not None:
            live, self._live = self._live, None
            await live.stop()

    def first_text(self, answer: int, seconds: float) -> None:
        if not self.reads:
            return
        self._text[answer] = []
        if self._live is not None:
            self._live.began(answer)
        else:
            self._choose()

    def pieces(self, answer: int, pieces: Sequence[Piece]) -> None:
        if not self.reads:
            return
        if self._live is not None:
            self._live.pieces(answer, pieces)
            out = self._folded(answer, pieces)
        else:
            out = [self._coloured(piece) for piece in pieces]
        if answer == self._streamed:
            self._write("".join(out))
        else:
            self._text[answer].append("".join(out))

    def _folded(self, answer: int, pieces: Sequence[Piece]) -> list[str]:
        """The pieces as they are printed, with one line instead of thinking."""
        out: list[str] = []
        for piece in pieces:
            if piece.thought:
                self._thought[answer] = self._thought.get(answer, 0) + (piece.token is not None)
                continue
            if piece.text.strip() and answer in self._thought:
                out.append(self._dim(folded(self._thought.pop(answer))))
            out.append(self._coloured(piece))
        return out

    def _coloured(self, piece: Piece) -> str:
        # Escape codes instead of rich, because this shares the interpreter with the decode loop.
        text = shown(piece.text)
        if not self._colours:
            return text
        if text and (piece.backs or piece.thought):
            text = f"{_DIM if piece.thought else ''}{_GREEN if piece.backs else ''}{text}{_OFF}"
        return f"{text}{_RED}{shown(piece.rejected)}{_OFF}" if piece.rejected and self._shows_rejected else text

    def _dim(self, line: str) -> str:
        return f"{_DIM}{line}{_OFF}\n" if self._colours else f"{line}\n"

    def finished(self, answer: int, summary: Summary) -> None:
        self._end(answer, figures(summary))

    def failed(self, answer: int, status: int) -> None:
        self._end(answer, ["(broken off)"])

    def _end(self, answer: int, closing: Sequence[str]) -> None:
        if answer not in self._text:
            return  # it had no text yet, or nothing is printed
        thought = [folded(self._thought.pop(answer))] if answer in self._thought else []
        lines = [*thought, "", *closing, ""]
        whole = "".join([*self._text.pop(answer), *map(self._dim, lines)])
        if self._live is not None:
            with self._unharmed():
                self._live.finished(answer, whole)
            return
        if self._streamed is not None and answer != self._streamed:
            self._waiting.append(whole)
            return
        self._streamed = None
        self._write("".join([whole, *self._waiting]))
        self._waiting.clear()
        self._choose()

    def _choose(self) -> None:
        """Print an answer as it comes if it is the only one."""
        if self._streamed is None and len(self._text) == 1:
            ((self._streamed, parts),) = self._text.items()
            self._write("".join(parts))
            parts.clear()

    def _write(self, text: str) -> None:
        with self._unharmed():
            sys.stdout.write(text)
            sys.stdout.flush()

    @contextlib.contextmanager
    def _unharmed(self) -> Iterator[None]:
        """Within it, a full disk or a reader that is gone ends the printing, and no answer."""
        try:
            yield
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            log.warning("answers are printed no more: standard output cannot be written (%s)", reason)
            # What is in its buffer would fail again at each turn, and at the end of the program.
            with Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), sys.stdout.fileno())


def figures(summary: Summary) -> list[str]:
    """Lines about prompt, answer, what backs brought, guesses, and guesses per back."""
    read = summary.prompt_tokens - summary.cached_tokens
    lines = [
        f"prompt {summary.prompt_tokens} tokens, {summary.cached_tokens} of them cached, "
        f"{_rate(read, summary.prompt_seconds)} tokens/s",
        f"answer {summary.completion_tokens} tokens, "
        f"{_rate(summary.completion_tokens, summary.decode_seconds)} tokens/s",
    ]
    if summary.speedup is not None:
        lines.append(f"{shown_times(summary.speedup)} as fast as without backs")
    if summary.drafted:
        share = summary.accepted / summary.drafted
        lines.append(
            f"guesses {summary.drafted} verified, {summary.accepted} accepted ({share:.0%}), "
            f"mean accepted length {summary.accepted / max(1, summary.steps):.2f}"
        )
    for name, count in summary.backs.items():
        share = count.accepted / max(1, count.drafted)
        lines.append(f"  {name}: {count.drafted} verified, {count.accepted} accepted ({share:.0%})")
    return lines


def shown_times(it: Speedup) -> str:
    """Such as 2.10 x (± 0.12)."""
    return f"{it.times:.2f} x (± {it.error:.2f})"


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f}" if seconds > 0 else "-"
