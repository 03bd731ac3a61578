"""Text from tokens as they come.

A token may end inside a character, and what a token looks like may depend on the one before it (a leading space). So
the newest tokens are decoded together with a few before them, and text is given out only once it is whole. Hugging
Face's text-generation-inference streams text in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from duo.engines.base import Vocabulary
from duo.errors import RequestError

Decode = Callable[[Sequence[int]], str]

NO_MARKS: Mapping[int, str] = MappingProxyType({})

CONTEXT = 4
"""Tokens of what came before that are decoded together with the first new one."""


class TextStream:
    """Turns a growing list of tokens into pieces of text that never break a character."""

    def __init__(self, decode: Decode, before: Sequence[int] = (), marks: Mapping[int, str] = NO_MARKS) -> None:
        """`before`: the tokens whose text goes on. Alone, the first token of a text would lose its leading space in
        some vocabularies. `marks`: special tokens whose names are a part of the text."""
        self._decode = decode
        self._marks = marks
        self._tokens = list(before[-CONTEXT:])
        if decode(self._tokens).endswith("\ufffd"):
            self._tokens = []  # they end in the middle of a character
        self._start = 0
        self._shown = len(self._tokens)

    def push(self, token: int) -> str:
        """Text that is whole now that `token` has come; may be empty."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._start : self._shown])
        now = self._decode(self._tokens[self._start :])
        if token in self._marks:
            # A character that it cuts off is complete: nothing belongs to it behind the mark.
            now += self._marks[token]
        elif now.endswith("\ufffd") and len(self._tokens) - self._shown < 16:
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


def special_in(strings: Sequence[str], vocabulary: Vocabulary) -> dict[int, str]:
    """The special tokens whose names are in these stop strings, by id.

    Such a token adds nothing to a text. So the strings are looked for in a text that has its name in its place.
    """
    found: dict[int, str] = {}
    for string in strings:
        for token in vocabulary.encode_rendered(string):
            if not vocabulary.token_bytes(token):
                name = vocabulary.meanings[token].decode("utf-8", errors="replace")
                if name and name in string:
                    found[token] = name
    return found


def check_tokens(tokens: Iterable[int], vocabulary: Vocabulary, where: str) -> None:
    """Raises RequestError for the first token that is not in the vocabulary. `where`: the field that holds it."""
    strange = next((token for token in tokens if not 0 <= token < vocabulary.size), None)
    if strange is not None:
        raise RequestError(f"{where}: no token {strange} in a vocabulary of {vocabulary.size}", where)


class Stops:
    """Finds the first of some strings in a text that comes in pieces; no part of one is ever given out before it is
    known whether the whole will follow."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(string for string in strings if string)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What of the text may be shown now, and whether one of the strings has come: then nothing follows."""
        if not self._strings:
            return text, False
        text = self._held + text
        found = [at for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max(overlap(text, string) for string in self._strings)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """What was held back, when the text ends without any of them."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of the text that the mark begins with, short of the whole mark."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)
