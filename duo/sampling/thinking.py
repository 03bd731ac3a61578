"""A limit on the tokens that a model thinks before it answers.

Thinking stands between two marks. When its tokens are used up, the tokens that end it are all that may follow. This is
a function of the answer so far, as a grammar is. So guesses change nothing, and draft models need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from duo.prefix import common_length
from duo.sampling.params import Constraint, Ints

_LONGEST_CHARACTER = 4
"""Bytes of a character in UTF-8."""


@dataclass(frozen=True, slots=True)
class ThinkingLimit:
    """budget: most tokens of thinking in the whole answer, those of the closing mark aside.

    begun: whether the answer begins within thinking. opens, closes: the marks, as text. ending: the tokens that end
    thinking when the budget is used up; at least one. next: tokens of which one must come after the ending; empty if
    any may. names: special tokens that are marks or parts of them, by id.
    """

    budget: int
    begun: bool
    opens: Sequence[str]
    closes: Sequence[str]
    ending: Sequence[int]
    names: Mapping[int, str] = field(default_factory=dict)
    next: Sequence[int] = ()


class _At(NamedTuple):
    """Where an answer stands. `used`: tokens of thinking. `ended`: tokens of the ending, if it has begun. If it is
    whole, one of the next tokens must come. `tail`: the last bytes of the text since the last mark."""

    thinking: bool
    used: int = 0
    ended: int = 0
    tail: bytes = b""


class ThinkingConstraint:
    """Ends thinking in time. Any text may follow otherwise, or what another constraint allows. Not thread-safe."""

    def __init__(self, limit: ThinkingLimit, spell: Callable[[int], bytes], within: Constraint | None = None) -> None:
        """`spell`: the bytes of a token. `within`: what the answer must follow besides. Where it does not allow that
        thinking ends, thinking goes on."""
        self._limit, self._spell, self._within = limit, spell, within
        self._names = {token: name.encode() for token, name in limit.names.items()}
        self._opens = [mark.encode() for mark in limit.opens if mark]
        self._closes = [mark.encode() for mark in limit.closes if mark]
        self._kept = max(_LONGEST_CHARACTER, *map(len, self._opens + self._closes))
        self._tokens: list[int] = []
        self._places = [_At(limit.begun)]
        """Where the answer stood after each of its tokens, and at its beginning."""

    def allowed(self, completion: Sequence[int]) -> Ints | None:
        """See `duo.sampling.params.Constraint`."""
        within = self._within.allowed(completion) if self._within is not None else None
        due: Ints = np.array(sorted(self._due(completion)), dtype=np.int64)
        if within is not None:
            due = due[np.isin(due, within)]
        return due if due.size else within

    def _due(self, completion: Sequence[int]) -> Sequence[int]:
        """The tokens of which one must follow, if thinking is to end there."""
        tokens = list(completion)
        shared = common_length(tokens, self._tokens)
        del self._tokens[shared:], self._places[shared + 1 :]
        for token in tokens[shared:]:
            self._tokens.append(token)
            self._places.append(self._after(self._places[-1], token))
        at, ending = self._places[-1], self._limit.ending
        if at.ended:
            return self._limit.next if at.ended == len(ending) else [ending[at.ended]]
        left = self._limit.budget - at.used
        over = left <= 0 and not (left > 1 - _LONGEST_CHARACTER and _cut(at.tail))
        return [ending[0]] if at.thinking and over else []

    def _after(self, at: _At, token: int) -> _At:
        """Where the answer stands with one more token."""
        ending, over = self._limit.ending, at.thinking and at.used >= self._limit.budget
        if at.ended == len(ending):
            at = at._replace(ended=0)
        ended = 0
        if (at.ended or over) and token == ending[at.ended]:
            ended = at.ended + 1
            if ended == len(ending):
                return _At(False, at.used, ended if self._limit.next else 0)
        tail = at.tail + (self._names.get(token) or self._spell(token))
        for mark in self._closes if at.thinking else self._opens:
            if (place := tail.find(mark)) >= 0:
                # After a backquote an opening mark is spoken of, and not used.
                turns = at.thinking or tail[place - 1 : place] != b"`"
                return _At(at.thinking != turns, at.used, ended, tail[place + len(mark) :][-self._kept :])
        return _At(at.thinking, at.used + at.thinking, ended, tail[-self._kept :])


def _cut(text: bytes) -> bool:
    """Whether the text ends within a character."""
    for back in range(1, min(_LONGEST_CHARACTER, len(text) + 1)):
        byte = text[-back]
        if byte & 0xC0 != 0x80:
            return byte >= 0xC0 and back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return False
