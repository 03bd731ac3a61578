"""Moves what slots hold to the cache of prompts and back, where that is faster than to read a prompt again."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from duo.engines import Engine, memory
from duo.errors import ContextError, first_line
from lead.decode.prompt_cache import Found, PromptCache

log = logging.getLogger("lead")

MIN_TOKENS = 64
"""A copy of fewer tokens is not worth its trouble."""
RATE = 0.3
"""How far one copy moves what is known of the speed of copies."""
FORGET = 0.1
"""With every copy that is not made, as it does not pay, copies count as this much faster: so one is tried again. The
one that was measured may have been slow by chance, on a busy machine."""
PRIOR_COPIES = 8.0
"""Before any is made, so many copies count as made, and half of them as asked for."""
MEMORY_FADE = 0.99
"""What remains of the record of copies when another is made, or is not made because it does not pay."""
FREE_SHARE = 0.5
"""A copy may take this share of the memory that is free at the time."""


@dataclass(slots=True)
class Counts:
    """For people and metrics. hits: prompts that got something from the cache. tokens: how many that were in all.
    saved: copies that were made."""

    hits: int = 0
    tokens: int = 0
    saved: int = 0


class Swap:
    """The cache of prompts of an engine. The decoder's thread uses it; others may read `counts` and `cache.bytes`."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        """max_bytes: most bytes of copies; 0: no cache."""
        self._engine = engine
        self.cache = PromptCache(0 if engine.unsavable else max_bytes)
        self.counts = Counts()
        self.token_seconds = 0.0
        """Seconds that a token of a prompt takes to read, lately; 0: not known."""
        self._byte_seconds = 0.0
        """Seconds that a byte takes to copy, in one direction; 0: not known."""
        self._doubted = True
        """Whether the next copy alone says how fast copies are."""
        self._made = self._asked = 0.0
        """Copies that were made, and those of them that were asked for; old ones fade."""

    @property
    def on(self) -> bool:
        return self.cache.max_bytes > 0

    def find(self, prompt: list[int], max_tokens: int, known: int) -> Found | None:
        """A copy from which to restore a slot for the prompt. known: tokens of the prompt that slots give already.

        None if there is none, or if reading the prompt is as fast.
        """
        if not len(self.cache):
            return None
        found = self.cache.find(prompt, max_tokens)
        if found is None or found.length - known < MIN_TOKENS:
            return None
        return found if self._faster(found.length - known, found.kept.bytes) else None

    def keep(self, slot: int, tokens: list[int]) -> None:
        """The slot holds these tokens, and is about to lose them: copy it, if that pays."""
        tokens = tokens[: self._engine.length(slot)]
        if not self.on or len(tokens) < MIN_TOKENS:
            return
        size = self._engine.copy_bytes(slot)
        if not self.cache.fits(size) or self.cache.holds(tokens):
            return
        # A copy is made now, and is put back if it is asked for. Often nobody ever asks.
        share = (self._asked + PRIOR_COPIES / 2) / (self._made + PRIOR_COPIES)
        pays = self._faster(share * len(tokens), (1 + share) * size)
        self._made, self._asked = MEMORY_FADE * self._made, MEMORY_FADE * self._asked
        if not pays:
            self._byte_seconds *= 1.0 - FORGET
            self._doubted = True
            return
        free = memory.available()
        if free is not None and size > FREE_SHARE * free:
            return
        started = time.perf_counter()
        try:
            copy = self._engine.save(slot)
        except (ContextError, MemoryError, RuntimeError) as error:  # torch has no error of its own for memory
            log.warning("a prompt was not kept: %s", first_line(error))
            return
        if copy.length:
            self._learn(copy.bytes, time.perf_counter() - started)
            self.counts.saved += self.cache.add(tokens, copy)
            self._made += 1.0

    def bring_back(self, slot: int, found: Found) -> bool:
        """Restore the slot from a copy. Returns whether it could be done; else the slot is empty."""
        started = time.perf_counter()
        try:
            count = self._engine.restore(slot, found.kept.copy, found.kept.tokens)
        except ContextError as error:
            log.warning("a prompt could not be brought back: %s", error)
            self.cache.drop(found.kept)
            return False
        self._learn(found.kept.copy.bytes, time.perf_counter() - started)
        self.cache.used(found)
        self._asked = min(self._made, self._asked + 1.0)
        self.counts.hits += 1
        self.counts.tokens += min(found.length, count)
        return True

    def _faster(self, tokens: float, size: float) -> bool:
        """Whether to copy these bytes is faster than to read so many tokens, by what is known."""
        return not self.token_seconds or size * self._byte_seconds < tokens * self.token_seconds

    def _learn(self, size: int, seconds: float) -> None:
        rate = seconds / max(1, size)
        self._byte_seconds += (rate - self._byte_seconds) * (1.0 if self._doubted else RATE)
        self._doubted = False
