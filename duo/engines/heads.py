"""The contract of heads: small networks that guess from the target's own hidden states.

Medusa (2401.10774), MLP speculators (2404.19124), EAGLE-3 (2503.01840) and the layers for multi-token prediction that
some models carry are heads. A head knows more than a draft model of its size, for the target has done most of the work.
It guesses only at the end of an answer, where it has seen the state of the token before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from duo.engines.base import Logits


class Tip(NamedTuple):
    """Where a head guesses: after these tokens of a slot. The target has read all but the last one."""

    slot: int
    tokens: Sequence[int]


class Head(Protocol):
    """Guesses for several slots at once. The thread of its target's engine calls it."""

    @property
    def name(self) -> str:
        """Its kind, for people."""

    @property
    def depth(self) -> int:
        """Most tokens ahead."""

    def begin(self, tips: Sequence[Tip]) -> Mapping[int, Logits]:
        """Logits [vocabulary] of the next token, by slot. Slots whose last state is unknown are left out."""

    def step(self, tokens: Mapping[int, int]) -> Mapping[int, Logits]:
        """The same after one more token, by slot. The slots are among those of the last `begin` or `step`."""
