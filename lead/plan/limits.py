"""Which guesses may be verified at all: limits of the flags, of the runtime and of the model's memory."""

from __future__ import annotations

from dataclasses import dataclass

from duo.engines.base import TREES, Rollback
from duo.engines.replay import Replay
from lead.plan.tree import GuessTree, Node


@dataclass(frozen=True, slots=True)
class Limits:
    """As in llama-server: of each answer at most `draft_max` guesses of models are verified, and those that memory has
    made too, up to `memory_max` in all. None is less likely than `p_min`. If fewer than `draft_min` are left, none is
    verified."""

    draft_max: int = 16
    draft_min: int = 0
    p_min: float = 0.0
    memory_max: int = 0
    rows: int = 32
    """Most rows of one forward pass, over all answers: the runtime has no room for more."""
    rollback: Rollback = TREES
    """What the model's memory allows: trees or one chain for each answer, and how many guesses may be rejected."""

    @property
    def max_guesses(self) -> int:
        """Most guesses of one answer in a forward pass. 0: the model is served without guesses."""
        return min(max(self.draft_max, self.memory_max), self.rollback.depth) if self.draft_max else 0

    @property
    def of_models(self) -> int:
        """How many of them may be guesses that models alone have made."""
        return min(self.draft_max, self.rollback.depth)

    def likeliest(self, tree: GuessTree, count: int) -> list[tuple[Node, float]]:
        """At most `count` guesses that may be verified, with their path probabilities, falling."""
        return (tree.best if self.rollback.trees else tree.chain)(count, self.p_min, self.of_models)


def without_guesses(limits: Limits, replay: Replay | None) -> str:
    """Why a model cannot verify guesses with a gain, though it is asked to. Empty if it can."""
    if not limits.draft_max:
        return ""
    if not limits.max_guesses:
        return "its memory does not go back over those that are wrong"
    if replay is not None and not replay.pays(limits.max_guesses):
        return "to be able to go back costs more here than guesses save, even if all were right"
    return ""
