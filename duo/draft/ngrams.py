"""An index of n-grams: where the last tokens of a text were seen before, and so what may come next.

The ideas are those of prompt lookup decoding (Saxena, 2023), of llama.cpp's n-gram drafts, and of SuffixDecoding (arXiv
2411.04975). Two lengths of n-grams are hashed. The end of each one links to where the same n-gram ended before. What is
found is compared backwards, so a match knows how many tokens agree.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LENGTHS = (8, 3)
"""Lengths of n-grams, the longest first. A shorter one is looked up only if the longer one is not known."""
MAX_MATCH = 64
"""Tokens that are compared backwards."""
MAX_MATCHES = 8
"""Places that are looked at for an n-gram, the newest first."""
MAX_COMPARED = 8
"""Recent texts that a new one is compared with."""
MAX_TOKENS = 1 << 16
"""Tokens of a generation. If the young one is full, the old one is dropped. A token takes about 220 bytes."""

_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_POSITION_BITS = 32
_NEVER = -1


@dataclass(slots=True, eq=False)
class Text:
    """A text that is indexed while it grows, from the place `start` on. Another one has the n-grams before."""

    number: int
    generation: _Generation
    tokens: array[int]
    start: int
    before: tuple[array[int], ...] = field(default_factory=lambda: tuple(array("q") for _ in LENGTHS))
    """By length of n-gram and place from `start` on: where the same n-gram ended before; -1 if nowhere."""


@dataclass(slots=True, eq=False)
class _Generation:
    """Texts that are dropped together, and where each of their n-grams was seen last."""

    tokens: int = 0
    texts: dict[int, Text] = field(default_factory=dict)
    newest: tuple[dict[int, int], ...] = field(default_factory=lambda: tuple({} for _ in LENGTHS))


class Match(NamedTuple):
    """`length` tokens before `position` of a text are also the last ones of another text, or of this one."""

    text: Text
    position: int
    length: int


class NgramIndex:
    """The texts of one owner. Bounded: the oldest are dropped. One thread uses it."""

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        """`max_tokens`: of a generation. There are two."""
        self._max_tokens = max_tokens
        self._numbers = count()
        self._young, self._old = _Generation(), _Generation()

    def __len__(self) -> int:
        """Tokens in all texts."""
        return self._young.tokens + self._old.tokens

    def open(self, tokens: Sequence[int]) -> Text:
        """A new text that begins with these tokens.

        What it shares with the beginning of a recent text is not indexed again: each turn of a conversation sends all
        that came before.
        """
        if self._young.tokens and self._young.tokens + len(tokens) > self._max_tokens:
            self._old, self._young = self._young, _Generation()
        held = array("i", tokens)
        recent = islice(reversed(self._young.texts.values()), MAX_COMPARED)
        start = max((_common(held, text.tokens) for text in recent), default=0)
        text = Text(next(self._numbers), self._young, held, max(0, start - 1))
        self._young.texts[text.number] = text
        self._young.tokens += len(tokens) - text.start
        for length, newest, before in zip(LENGTHS, text.generation.newest, text.before, strict=True):
            _index(text, length, newest, before)
        return text

    def extend(self, text: Text, tokens: Sequence[int]) -> None:
        """The text goes on."""
        held, at = text.tokens, text.number << _POSITION_BITS
        text.generation.tokens += len(tokens)
        for token in tokens:
            end = len(held) - 1  # of n-grams that get to know what follows them
            held.append(token)
            if end < text.start:
                continue
            for length, newest, before in zip(LENGTHS, text.generation.newest, text.before, strict=True):
                if end < length - 1:
                    before.append(_NEVER)
                    continue
                key = _hash(held, end, length)
                before.append(newest.get(key, _NEVER))
                newest[key] = at | end

    def matches(self, text: Text) -> list[Match]:
        """Where the last tokens of the text were seen before. The longest matches come first, then the newest."""
        found: list[Match] = []
        for kind, length in enumerate(LENGTHS):
            if len(text.tokens) < length:
                continue
            key = _hash(text.tokens, len(text.tokens) - 1, length)
            for generation in (self._young, self._old):
                for other, end in _seen(generation, kind, key):
                    agreed = _agreed(other.tokens, end, text.tokens)
                    if agreed >= length:  # else the hashes are equal by chance
                        found.append(Match(other, end + 1, agreed))
                    if len(found) == MAX_MATCHES:
                        break
            if found:
                break
        found.sort(key=lambda match: -match.length)
        return found


def _seen(generation: _Generation, kind: int, key: int) -> Iterator[tuple[Text, int]]:
    """Where n-grams of this hash ended, the newest first."""
    place = generation.newest[kind].get(key, _NEVER)
    while place != _NEVER:
        text, end = generation.texts[place >> _POSITION_BITS], place & ((1 << _POSITION_BITS) - 1)
        yield text, end
        place = text.before[kind][end - text.start]


def _common(tokens: array[int], others: array[int]) -> int:
    """Length of the longest common prefix."""
    most = min(len(tokens), len(others))
    if not most:
        return 0  # numpy takes no empty buffer
    differ = np.frombuffer(tokens, np.int32, most) != np.frombuffer(others, np.int32, most)
    return int(differ.argmax()) if differ.any() else most


def _agreed(tokens: array[int], end: int, others: array[int]) -> int:
    """How many tokens up to `end` are also the last ones of the others."""
    most = min(MAX_MATCH, end + 1, len(others))
    last = len(others) - 1
    return next((i for i in range(most) if tokens[end - i] != others[last - i]), most)


def _hash(tokens: array[int], end: int, length: int) -> int:
    """A polynomial modulo 2**64, which numpy computes for many n-grams at once."""
    key = 0
    for i in range(end - length + 1, end + 1):
        key = (key * _FACTOR + tokens[i] + 1) & _MASK
    return key


def _index(text: Text, length: int, newest: dict[int, int], before: array[int]) -> None:
    """Index the n-grams of a whole text at once, as `NgramIndex.extend` does one by one."""
    first, last = max(text.start, length - 1), len(text.tokens) - 1
    before.extend([_NEVER] * (min(first, last) - text.start))
    if first >= last:
        return
    begin = first - length + 1
    tokens = np.array(text.tokens[begin:last], np.uint64)
    count = last - first
    keys: NDArray[np.uint64] = np.zeros(count, np.uint64)
    for i in range(length):
        keys = keys * np.uint64(_FACTOR) + tokens[i : i + count] + np.uint64(1)
    # In a stable order of keys, the one before it with the same key is where the n-gram was seen before.
    order = np.argsort(keys, kind="stable")
    new = np.flatnonzero(np.diff(keys[order], prepend=keys[order[0]] + np.uint64(1)))
    places = np.arange(first, last, dtype=np.int64) | np.int64(text.number << _POSITION_BITS)
    links = np.empty(count, np.int64)
    links[order[1:]] = places[order[:-1]]
    links[order[new]] = [newest.get(key, _NEVER) for key in keys[order[new]].tolist()]
    before.frombytes(links.tobytes())
    newest.update(zip(keys.tolist(), places.tolist(), strict=True))
