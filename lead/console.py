"""What the person at the lead's terminal sees: the text as it comes, and figures after each answer.

Accepted guesses are green, the target's own tokens plain, rejected guesses (print mode `all`) red. Colours only where
the terminal has them; NO_COLOR and FORCE_COLOR are honoured, as rich does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from rich.console import Console as Terminal

from lead.answers import Piece, Summary

PrintMode = Literal["none", "accepted", "all"]

_GREEN, _RED, _DIM, _OFF = "\x1b[32m", "\x1b[31;9m", "\x1b[2m", "\x1b[0m"


def _shown(text: str) -> str:
    """The model's text without the control characters that could play tricks on a terminal."""
    return text if text.isprintable() else "".join(c for c in text if c.isprintable() or c in "\n\t")


class Console:
    """A `lead.service.Listener` that writes to standard output."""

    def __init__(self, mode: PrintMode) -> None:
        self._mode = mode
        self._colours = Terminal().color_system is not None

    def began(self, answer: int, prompt_tokens: int) -> None:
        pass

    def pieces(self, answer: int, pieces: Sequence[Piece]) -> None:
        if self._mode == "none":
            return
        # Written by hand and not with rich: this runs beside the decode loop and shares the interpreter with it.
        out: list[str] = []
        for piece in pieces:
            text = _shown(piece.text)
            out.append(f"{_GREEN}{text}{_OFF}" if text and piece.backs and self._colours else text)
            if piece.rejected and self._mode == "all" and self._colours:
                out.append(f"{_RED}{_shown(piece.rejected)}{_OFF}")
        sys.stdout.write("".join(out))
        sys.stdout.flush()

    def finished(self, answer: int, summary: Summary | None) -> None:
        if self._mode == "none":
            return
        lines = ["", *(figures(summary) if summary else ["(broken off)"]), ""]
        dim, off = (_DIM, _OFF) if self._colours else ("", "")
        sys.stdout.write("".join(f"{dim}{line}{off}\n" for line in lines))
        sys.stdout.flush()


def figures(summary: Summary) -> list[str]:
    """Lines for people: prompt, answer, guesses, and guesses by back."""
    read = summary.prompt_tokens - summary.cached_tokens
    lines = [
        f"prompt {summary.prompt_tokens} tokens, {summary.cached_tokens} of them cached, "
        f"{_rate(read, summary.prompt_seconds)} tokens/s",
        f"answer {summary.completion_tokens} tokens, "
        f"{_rate(summary.completion_tokens, summary.decode_seconds)} tokens/s",
    ]
    if summary.drafted:
        lines.append(
            f"guesses {summary.accepted} accepted of {summary.drafted} ({summary.accepted / summary.drafted:.0%}), "
            f"mean accepted length {summary.accepted / max(1, summary.steps):.2f}"
        )
    for name, count in summary.backs.items():
        lines.append(f"  {name}: {count.accepted} of {count.drafted} ({count.accepted / max(1, count.drafted):.0%})")
    return lines


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f}" if seconds > 0 else "-"
