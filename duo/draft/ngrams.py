"""An index of n-grams: where the last tokens of a text were seen before, and so what may come next.

The ideas are those of prompt lookup decoding (Saxena, 2023), of llama.cpp's n-gram drafts, and of SuffixDecoding (arXiv
2411.04975). Two lengths of n-grams are hashed. The end of each one links to where the same n-gram ended before. What is
found is compared backwards, so a match knows how many tokens agree.

Texts are indexed in pieces, so that a long one holds nobody up.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from duo.prefix import Prefix

LENGTHS = (8, 3)
"""Lengths of n-grams, the longest first. A shorter one is looked up only if the longer one is not known."""
MAX_MATCH = 64
"""Tokens that are compared backwards."""
MAX_LOOKS = 8
"""Places that are looked at for an n-gram, the newest first."""
MAX_COMPARED = 8
"""Recent texts that a new one is compared with."""
SPACING = 64
"""Tokens between two hashes of a text's beginnings, by which it is compared."""
PIECE = 256
"""Tokens that are indexed at once."""
MAX_TOKENS = 1 << 16
"""Tokens of a generation. If the young one is full, the old one is dropped. A token takes about 220 bytes."""
TEXT_COST = 64
"""A text counts as so many tokens more."""

_SMALL = 24
"""So many tokens are indexed one by one: faster than by numpy."""
_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_POSITION_BITS = 32
_NEVER = -1


@dataclass(slots=True, eq=False)
class Text:
    """A text that grows. `tokens`: those from the place `begin` on; another text has the ones before.

    `marks`: hashes of its beginnings, one every `SPACING` tokens. Places below count from `begin`.
    """

    number: int
    generation: _Generation
    begin: int
    start: int
    """N-grams that end before this place are known from another text."""
    tokens: array[int]
    marks: array[int] = field(default_factory=lambda: array("Q"))
    before: tuple[array[int], ...] = field(default_factory=lambda: tuple(array("q") for _ in LENGTHS))
    """By length of n-gram and place from `start` on: where the same n-gram ended before; -1 if nowhere."""

    @property
    def unindexed(self) -> int:
        """Places whose n-grams are not indexed yet. That of the last token never is: nothing is known to follow it."""
        return len(self.tokens) - 1 - self.start - len(self.before[0])

    def take(self, prefix: Prefix) -> int:
        """Take in what the prefix has beyond this text. Returns how many tokens that is."""
        new = prefix.tokens[self.begin + len(self.tokens) :]
        self.tokens.extend(new)
        first = SPACING * (len(self.marks) + 1)
        self.marks.extend([prefix.hash_at(at) for at in range(first, len(prefix) + 1, SPACING)])
        return len(new)


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
        self._behind: deque[Text] = deque()
        """Texts that are not indexed to their ends."""

    def __len__(self) -> int:
        """Tokens in all texts, and what the texts count beside them."""
        return self._young.tokens + self._old.tokens

    def open(self, prefix: Prefix) -> Text:
        """A new text that begins like this.

        What it shares with a recent text is not taken in again: each turn of a conversation sends all that came before.
        """
        recent = islice(reversed(self._young.texts.values()), MAX_COMPARED)
        shared = max((_common(text, prefix) for text in recent), default=0)
        begin = max(0, shared - MAX_MATCH)
        new = len(prefix) - begin
        if self._young.tokens and self._young.tokens + new > self._max_tokens:
            self._old, self._young = self._young, _Generation()
            shared, begin = 0, max(0, len(prefix) - self._max_tokens)
        text = Text(next(self._numbers), self._young, begin, max(0, shared - 1 - begin), array("i"))
        self._young.texts[text.number] = text
        self._young.tokens += text.take(prefix) + TEXT_COST
        self._behind.append(text)
        return text

    def extend(self, text: Text, prefix: Prefix) -> None:
        """The text goes on, as the prefix says."""
        if not text.unindexed > 0:
            self._behind.append(text)
        text.generation.tokens += text.take(prefix)

    def catch_up(self, most: int = PIECE) -> int:
        """Index at most so many places. The texts take turns. Returns how many places that were."""
        done = 0
        while self._behind and done < most:
            text = self._behind.popleft()
            done += self._index(text, most - done)
            if text.unindexed > 0:
                self._behind.append(text)
        return done

    @staticmethod
    def _index(text: Text, most: int) -> int:
        """Index at most so many places of the text. Returns how many."""
        first = text.start + len(text.before[0])
        last = first + max(0, min(most, text.unindexed))
        for length, newest, before in zip(LENGTHS, text.generation.newest, text.before, strict=True):
            short = min(max(first, length - 1), last)
            before.extend([_NEVER] * (short - first))
            (_index if last - short > _SMALL else _index_singly)(text, length, newest, before, short, last)
        return last - first

    def matches(self, text: Text) -> list[Match]:
        """Where the last tokens of the text were seen before. The longest matches come first, then the newest."""
        found: list[Match] = []
        for kind, length in enumerate(LENGTHS):
            if len(text.tokens) < length:
                continue
            key = _hash(text.tokens, len(text.tokens) - 1, length)
            seen = chain.from_iterable(_seen(generation, kind, key) for generation in (self._young, self._old))
            for other, end in islice(seen, MAX_LOOKS):
                agreed = _agreed(other.tokens, end, text.tokens)
                if agreed >= length:  # else the hashes are equal by chance
                    found.append(Match(other, end + 1, agreed))
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


def _common(text: Text, prefix: Prefix) -> int:
    """How many of the first tokens are the same, to the last mark."""
    marks, most = text.marks, min(len(text.marks), len(prefix) // SPACING)
    equal = next((i for i in range(most) if marks[i] != prefix.hash_at(SPACING * (i + 1))), most)
    return SPACING * equal


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


def _index_singly(text: Text, length: int, newest: dict[int, int], before: array[int], first: int, last: int) -> None:
    """Index the n-grams that end at the places from `first` to `last`."""
    at = text.number << _POSITION_BITS
    for end in range(first, last):
        key = _hash(text.tokens, end, length)
        before.append(newest.get(key, _NEVER))
        newest[key] = at | end


def _index(text: Text, length: int, newest: dict[int, int], before: array[int], first: int, last: int) -> None:
    """The same for many places at once."""
    size = last - first
    tokens = np.array(text.tokens[first - length + 1 : last], np.uint64)
    keys: NDArray[np.uint64] = np.zeros(size, np.uint64)
    for i in range(length):
        keys = keys * np.uint64(_FACTOR) + tokens[i : i + size] + np.uint64(1)
    # In a stable order of keys, the one before it with the same key is where the n-gram was seen before.
    order = np.argsort(keys, kind="stable")
    new = np.flatnonzero(np.diff(keys[order], prepend=keys[order[0]] + np.uint64(1)))
    places = np.arange(first, last, dtype=np.int64) | np.int64(text.number << _POSITION_BITS)
    links = np.empty(size, np.int64)
    links[order[1:]] = places[order[:-1]]
    links[order[new]] = [newest.get(key, _NEVER) for key in keys[order[new]].tolist()]
    before.frombytes(links.tobytes())
    newest.update(zip(keys.tolist(), places.tolist(), strict=True))
