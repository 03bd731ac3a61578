"""Prompts that left their slots, kept in the memory of the host up to a limit.

Agents send prompts of 30,000 tokens and come back after others were served. Their slot is another's by then. So what a
slot held is copied before it goes, and a prompt that begins like a copy has the copy put back. Pure: copies are made
and put back elsewhere. llama-server does the same (`--cache-ram`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from duo.engines.slot_copy import SlotCopy
from duo.prefix import common_length

TOKEN_BYTES = 8
"""Bytes of a token's number in a list."""


class Kept(NamedTuple):
    """What a slot held: its tokens, and a copy of its memory."""

    tokens: list[int]
    copy: SlotCopy

    @property
    def bytes(self) -> int:
        return self.copy.bytes + TOKEN_BYTES * len(self.tokens)


class Found(NamedTuple):
    """A copy that begins like a prompt. length: how many tokens of the prompt it gives."""

    kept: Kept
    length: int


class PromptCache:
    """Copies of slots. If there are too many bytes, those that were used least lately go."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        """By the copy's id; the one used last is at the end."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def max_bytes(self) -> int:
        return self._max_bytes

    def find(self, prompt: list[int], max_tokens: int) -> Found | None:
        """The copy that gives most of the prompt's first `max_tokens` tokens; None if none gives any."""
        best: Found | None = None
        for kept in reversed(self._kept.values()):
            if best is None or len(kept.tokens) > best.length:
                length = kept.copy.restorable(min(max_tokens, common_length(kept.tokens, prompt)))
                if length > (best.length if best is not None else 0):
                    best = Found(kept, length)
        return best

    def holds(self, tokens: list[int]) -> bool:
        """Whether a copy gives all of these tokens. It counts as used then."""
        found = self.find(tokens, len(tokens))
        if found is None or found.length < len(tokens):
            return False
        self._kept.move_to_end(id(found.kept.copy))
        return True

    def fits(self, size: int) -> bool:
        """Whether a copy of so many bytes may be kept."""
        return size <= self._max_bytes

    def add(self, tokens: Sequence[int], copy: SlotCopy) -> bool:
        """Keep the copy of a slot with these tokens, and drop those that it goes on from. Returns whether it fits."""
        kept = Kept(list(tokens[: copy.length]), copy)
        if not self.fits(kept.bytes):
            return False
        for other in list(self._kept.values()):
            if len(other.tokens) <= len(kept.tokens) and common_length(other.tokens, kept.tokens) == len(other.tokens):
                self.drop(other)
        while self._kept and self.bytes + kept.bytes > self._max_bytes:
            self.drop(next(iter(self._kept.values())))
        self._kept[id(copy)] = kept
        self.bytes += kept.bytes
        return True

    def used(self, found: Found) -> None:
        """A slot was restored from it. If the slot's prompt has all of its tokens, it is not needed any more."""
        if id(found.kept.copy) not in self._kept:
            return
        if found.length == len(found.kept.tokens):
            self.drop(found.kept)
        else:
            self._kept.move_to_end(id(found.kept.copy))

    def drop(self, kept: Kept) -> None:
        """Forget a copy."""
        if self._kept.pop(id(kept.copy), None) is not None:
            self.bytes -= kept.bytes

    def clear(self) -> None:
        """Forget all copies."""
        self._kept.clear()
        self.bytes = 0
