"""What tokens mean, and how far two vocabularies agree. Pure.

A token means the bytes that it adds to a text. One that stands for no text, such as `<|im_end|>`, means its name.
Whether a token is special does not count, for the runtimes do not agree. By its name, llama.cpp takes Gemma's `</s>`
for a control token, and transformers takes it for text. Equal ids with equal meanings are the same token.

An id without a meaning only pads the logits. Converters to GGUF call such ids `[PAD151646]`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

Meanings = Sequence[bytes]
"""The meaning of every token, by id; empty if it has none."""

MAX_MEANING_BYTES = 256
"""A longer meaning is replaced by its SHA-256."""
MAX_DIFFERING = 1024
"""Most tokens in which two vocabularies that work together may differ."""
MAX_DIFFERING_SHARE = 100
"""They may also differ in at most one of this many tokens of the smaller vocabulary.

Fine-tunes add or rename a handful of special tokens, and families reserve a few hundred for that. Vocabularies of two
families agree in a few per cent of their tokens.
"""

_PADDING = re.compile(rb"\[PAD\d+\]")
_SHOWN = 40


def meaning_of(text: bytes) -> bytes:
    """The meaning of a token with this text or this name."""
    if _PADDING.fullmatch(text):
        return b""
    return text if len(text) <= MAX_MEANING_BYTES else hashlib.sha256(text).digest()


def fingerprint(meanings: Meanings) -> str:
    """SHA-256 over ids and meanings, as hexadecimal digits. Padding does not count."""
    digest = hashlib.sha256()
    for token, meaning in enumerate(meanings):
        if meaning:
            digest.update(struct.pack("<II", token, len(meaning)) + meaning)
    return digest.hexdigest()


SAMPLED = 256
"""Tokens that are enough to tell the vocabularies of two families apart."""
SAMPLE_SHARE = 50
"""Of a sample, at most one in this many may differ. A few fall on tokens that fine-tunes rename."""


class Sample(NamedTuple):
    """Shows a vocabulary in few bytes. size: without the padding at its end. meanings: of evenly spaced tokens.

    model_bytes: of the files of the model that it belongs to; 0 if that is not known.
    """

    fingerprint: str
    size: int
    meanings: Meanings
    model_bytes: int = 0

    def resembles(self, meanings: Meanings) -> bool:
        """Whether a vocabulary is the same but for a few tokens, as far as the sample shows."""
        if fingerprint(meanings) == self.fingerprint:
            return True
        count = len(self.meanings)
        there = trimmed(meanings)
        differing = sum(
            (meanings[at] if (at := number * self.size // count) < there else b"") != meaning
            for number, meaning in enumerate(self.meanings)
        )
        return differing <= count // SAMPLE_SHARE and count > 0


def sample(meanings: Meanings, known: str, model_bytes: int = 0) -> Sample:
    """Of a whole vocabulary. known: its fingerprint."""
    size = trimmed(meanings)
    count = min(SAMPLED, size)
    return Sample(known, size, [meanings[number * size // count] for number in range(count)], model_bytes)


def trimmed(meanings: Meanings) -> int:
    """Number of tokens without the padding at the end."""
    return next((token + 1 for token in range(len(meanings) - 1, -1, -1) if meanings[token]), 0)


class Comparison:
    """Compares a target's vocabulary with a draft's, whose meanings come bit by bit. It keeps only what differs."""

    def __init__(self, target: Meanings) -> None:
        self._target = target
        self._end = trimmed(target)
        self._sizes = [sum(map(bool, target)), 0]
        self.compared = 0
        """Ids compared so far; in the end all ids of the larger vocabulary."""
        self.count = 0
        """How many ids differ."""
        self.tokens: list[int] = []
        """The first ids that differ, ascending; at most `MAX_DIFFERING`."""
        self.first = (b"", b"")
        """What the first of these means in the target and in the draft."""

    def add(self, meanings: Meanings) -> None:
        """Compare the meanings of the draft's next tokens."""
        start, self.compared = self.compared, self.compared + len(meanings)
        self._sizes[1] += sum(map(bool, meanings))
        ours = self._target[start : self.compared]
        if ours == meanings:
            return
        missing = len(meanings) - len(ours)
        for token, (one, other) in enumerate(zip([*ours, *([b""] * missing)], meanings, strict=True), start):
            if one != other:
                self._differ(token, one, other)

    def finish(self) -> None:
        """The draft has no more tokens."""
        for token in range(self.compared, self._end):
            if self._target[token]:
                self._differ(token, self._target[token], b"")
        self.compared = max(self.compared, self._end)

    def _differ(self, token: int, ours: bytes, theirs: bytes) -> None:
        if not self.count:
            self.first = (ours, theirs)
        self.count += 1
        if len(self.tokens) < MAX_DIFFERING:
            self.tokens.append(token)

    @property
    def few(self) -> bool:
        """Whether so few tokens differ that the vocabularies can work together."""
        return self.count <= min(MAX_DIFFERING, min(self._sizes) // MAX_DIFFERING_SHARE)

    def __str__(self) -> str:
        return describe(self.count, self.compared, self.tokens[0] if self.tokens else None, *self.first)


def compare(target: Meanings, draft: Meanings) -> Comparison:
    """Compare two whole vocabularies."""
    comparison = Comparison(target)
    comparison.add(draft[: trimmed(draft)])
    comparison.finish()
    return comparison


def describe(count: int, compared: int, first: int | None, target: bytes, draft: bytes) -> str:
    """How many of the compared tokens differ, and what the first of them means on both sides. Safe for a terminal."""
    differ = f"{count} of {compared} tokens differ" if count != 1 else f"1 of {compared} tokens differs"
    if first is None:
        return differ
    where = "it is" if count == 1 else "the first is"
    return f"{differ}, {where} {first}: {_shown(target)} in the target, {_shown(draft)} in the draft"


def _shown(meaning: bytes) -> str:
    if not meaning:
        return "nothing"
    text = ascii(meaning.decode("utf-8", errors="backslashreplace"))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 4] + "..." + text[-1]
