"""A head that reads the whole text: it has keys and values of its own, and goes on from its own states.

Row p combines the target's state at position p with the embedding of the token at p + 1, and predicts the token at
p + 2. A guess is a further row, with the head's own last state in place of the target's. Before each line of guesses
the head reads what was committed meanwhile, of all slots in one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from duo.engines.base import Logits
from duo.engines.heads import Tip
from duo.engines.transformers.heads.keys import Keys
from duo.engines.transformers.heads.target import Target, by_slot

DEPTH = 8
"""Most tokens ahead. What is sure enough is decided from token to token."""
MAX_UNREAD = 256
"""Tokens of a prompt that wait for the next line of guesses. More are read at once."""


class _Unread(NamedTuple):
    """A committed token, its position, and the target's state there."""

    position: int
    token: int
    state: Tensor


@dataclass(slots=True)
class _Slot:
    """unread: committed tokens that are not rows yet. state: the head's own, of its last row."""

    unread: list[_Unread] = field(default_factory=list)
    state: Tensor | None = None
    position: int = 0


class Reader(ABC):
    """The part that EAGLE-3 and layers for multi-token prediction share. It is a tap."""

    layers: Sequence[int] = ()
    depth = DEPTH

    def __init__(self, target: Target, name: str) -> None:
        self.target, self.name = target, name
        self.keys = Keys()
        self._slots: dict[int, _Slot] = {}

    @abstractmethod
    def features(self, states: Tensor) -> Tensor:
        """What a row takes of the target's states [rows, width] as they come from a tap."""

    @abstractmethod
    def run(self, embedded: Tensor, features: Tensor, positions: Tensor) -> Tensor:
        """The head's own states [rows, hidden]. It attends through `keys`."""

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Logits [rows, vocabulary of the target, or its beginning] of the head's own states."""

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings [tokens, hidden]."""
        return self.target.embed(tokens)

    def next_features(self, states: Tensor) -> Tensor:
        """What a row takes of the head's own states, in place of the target's."""
        return states

    # -- Tap ---------------------------------------------------------------------------------------------------------

    def committed(self, slot: int, start: int, tokens: Sequence[int], states: Tensor) -> None:
        it = self._slots.setdefault(slot, _Slot())
        if it.unread and it.unread[-1].position != start - 1:
            it.unread.clear()  # its next token is not known
        it.unread += map(_Unread, range(start, start + len(tokens)), tokens, states.unbind(0))
        if len(it.unread) > MAX_UNREAD:
            rows, last = it.unread[:-1], it.unread[-1:]
            following = [row.token for row in it.unread[1:]]
            with torch.inference_mode():
                self._read([slot], [rows], [following])
            it.unread = last

    def cut(self, slot: int, length: int) -> None:
        self.keys.cut(slot, length)
        if (it := self._slots.get(slot)) is not None:
            it.state = None
            while it.unread and it.unread[-1].position >= length:
                it.unread.pop()

    def shared(self, source: int, target: int, length: int) -> None:
        self.keys.share(source, target, length)
        giver = self._slots.get(source, _Slot())
        self._slots[target] = _Slot([row for row in giver.unread if row.position < length])

    # -- Head --------------------------------------------------------------------------------------------------------

    def begin(self, tips: Sequence[Tip]) -> Mapping[int, Logits]:
        """See `Head`."""
        slots, rows, following = list[int](), list[list[_Unread]](), list[list[int]]()
        for slot, tokens in tips:
            it = self._slots.get(slot)
            if it is None or not it.unread or it.unread[-1].position != len(tokens) - 2:
                continue
            slots.append(slot)
            rows.append(it.unread)
            following.append([tokens[row.position + 1] for row in it.unread])
            it.unread = []
        if not slots:
            return {}
        with torch.inference_mode():
            states = self._read(slots, rows, following)
            return self._guess(slots, states)

    def step(self, tokens: Mapping[int, int]) -> Mapping[int, Logits]:
        """See `Head`."""
        slots = [(slot, it.state) for slot in tokens if (it := self._slots[slot]).state is not None]
        if not slots:
            return {}
        with torch.inference_mode():
            features = self.next_features(torch.stack([state for _, state in slots if state is not None]))
            self.keys.aim([(slot, 1) for slot, _ in slots])
            at = [self._slots[slot].position + 1 for slot, _ in slots]
            states = self.run(
                self.embed([tokens[slot] for slot, _ in slots]), features, torch.tensor(at, device=self.target.device)
            )
            for slot, _ in slots:
                self._slots[slot].position += 1
            return self._guess([slot for slot, _ in slots], states)

    def _guess(self, slots: Sequence[int], states: Tensor) -> Mapping[int, Logits]:
        for slot, state in zip(slots, states, strict=True):
            self._slots[slot].state = state
        return by_slot(slots, self.logits(states), self.target.size)

    def _read(
        self, slots: Sequence[int], rows: Sequence[Sequence[_Unread]], following: Sequence[Sequence[int]]
    ) -> Tensor:
        """One pass over committed tokens. following: the token after each. Returns each slot's last state."""
        for slot, unread in zip(slots, rows, strict=True):
            self.keys.commit(slot, [row.position for row in unread])
            self._slots[slot].position = unread[-1].position
        self.keys.aim([(slot, len(unread)) for slot, unread in zip(slots, rows, strict=True)])
        positions = torch.tensor([row.position for unread in rows for row in unread], device=self.target.device)
        features = self.features(torch.stack([row.state for unread in rows for row in unread]))
        states = self.run(self.embed([token for tokens in following for token in tokens]), features, positions)
        ends = torch.tensor([len(unread) for unread in rows]).cumsum(0) - 1
        return states[ends.to(states.device)]
