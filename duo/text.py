"""Text from tokens as they come.

A token may end inside a character, and what a token looks like may depend on the one before it (a leading space). So
the newest tokens are decoded together with a few before them, and text is given out only once it is whole. Hugging
Face's text-generation-inference streams text in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """Turns a growing list of tokens into pieces of text that never break a character."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = 0
        self._shown = 0

    def push(self, token: int) -> str:
        """Text that is whole now that `token` has come; may be empty."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._start : self._shown])
        now = self._decode(self._tokens[self._start :])
        if now.endswith("\ufffd") and len(self._tokens) - self._shown < 16:
            return ""
        self._start = self._shown
        self._shown = len(self._tokens)
        return now[len(before) :]

    def flush(self) -> str:
        """What is left at the end: a character that was never completed shows as U+FFFD."""
        before = self._decode(self._tokens[self._start : self._shown])
        now = self._decode(self._tokens[self._start :])
        self._start = self._shown = len(self._tokens)
        return now[len(before) :]
