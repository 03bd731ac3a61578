"""Which guesses to verify in the next forward pass, and whether to wait for better ones.

Nodes are taken in order of falling path probability, a set that is always closed under parents, and so many that

    expected new tokens(k)  -  rate x cost(k)

is greatest, where cost(k) is the measured cost curve and rate the tokens per second that are being achieved: time lost
now is paid at the long-run rate. (Maximising the tokens per second of this step alone is not the same, and worse.)

Waiting for guesses that are about to arrive (`lead.plan.arrivals`), or drafting some beside the target, is the same
comparison with the time added to the cost (`lead.plan.lookahead`). And so is whether all answers take part
(`lead.plan.sharing`).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence

from duo.engines.cost import CostCurve
from duo.engines.replay import NOTHING, Replay, Replayed
from lead.plan.arrivals import RANKS, Arrivals, Coming, DraftOffer
from lead.plan.governor import Governor
from lead.plan.limits import Limits
from lead.plan.lookahead import DRAFTING, WAITING, Lookahead
from lead.plan.sharing import Sharing
from lead.plan.speculation import Action, Expand, Speculation, Verify, Wait
from lead.plan.tree import GuessTree, Node, Place

MAX_LATER = 1.25
"""Backs whose guesses come so soon, as a multiple of the time that an own draft model takes, are left to do it."""
MIN_LOCAL_SHARE = 0.004
"""Share of the time that an own draft model gets even if it does not seem worth its time: nothing would ever be learned
of it otherwise."""


_Ranked = tuple[float, int, Node]
"""A guess: its path probability, the number of its answer, its node."""


class Planner(Speculation):
    """Plans the steps of a lead."""

    def __init__(self, cost: CostCurve, limits: Limits, replay: Replay | None = None) -> None:
        """`replay`: what guesses cost beside the rows, where the model goes back by a checkpoint."""
        super().__init__(limits)
        self.sharing = Sharing(cost)
        self._replay = replay
        self._max_guesses = limits.max_guesses
        self._ranks = RANKS if limits.rollback.trees else 1
        """Guesses of a place that may be verified."""
        self._at_load = copy.deepcopy(cost)
        """As it was measured, whatever passes have taken since."""
        self._under_way = 1
        """How many answers were under way at the last plan."""
        self._committed: float | None = None
        self._arrivals = Arrivals()
        self._governor, self._governor_of_many = Governor(), Governor()
        self._present: tuple[str, ...] = ()
        """Backs that are connected. Replaced and never changed: another thread sets it."""
        self._gone: deque[str] = deque()
        """Those that have left since the last step."""
        self._newcomer = False
        self._beside = False
        """Whether there is a draft model beside the target."""
        self._idle = 0.0
        """Seconds of decoding since an own draft model was asked last."""
        self._missed = 0.0
        """Tokens that an own draft model would have brought, had it not been in arrears."""
        self._surprised: bool | None = None
        """Whether nothing had been guessed of the place where an answer got to last; None before that was looked at."""

    @property
    def resting(self) -> bool:
        return (self._governor if self._under_way == 1 else self._governor_of_many).resting

    @property
    def backs(self) -> Sequence[str]:
        return sorted(self._present, key=self._arrivals.pace)

    def joined(self, back: str) -> None:
        self._present = (*(name for name in self._present if name != back), back)
        self._newcomer = True

    def left(self, back: str) -> None:
        super().left(back)
        self._present = tuple(name for name in self._present if name != back)
        self._gone.append(back)

    def skipped(self, now: float) -> None:
        self._committed = now
        self._surprised = False

    def heard(self, now: float, back: str, found: Sequence[Place]) -> None:
        committed = self._committed if self._committed is not None else now
        if now < committed:
            # They were heard late, which says nothing of when messages come.
            self._arrivals.revealed(found)
            return
        self._arrivals.heard(now, back, committed, bool(self._surprised), found)

    def drafted(self, found: Sequence[Place]) -> None:
        self._arrivals.revealed(found)

    def finished(
        self,
        now: float,
        rows: int,
        seconds: float,
        tokens: float,
        answers: int = 1,
        read: bool = False,
        replayed: Replayed = NOTHING,
    ) -> None:
        if self._newcomer:
            self._newcomer = False
            self._governor.newcomer()
            self._governor_of_many.newcomer()
        took = max(now - self._committed, 1e-9) if self._committed is not None and not read else None
        passed = seconds if not read else None
        if self._replay is not None:
            passed = self._replay.observe(rows, passed, replayed)
        if passed is not None:
            self.sharing.curve(answers).observe(rows, passed)
        self.sharing.step(answers, took, tokens)
        self._idle += took or 0.0
        if self._present and self._committed is not None:
            self._weigh(took, tokens, answers)
        if self._surprised and self._committed is not None and not self.resting:
            self._arrivals.passed(self._committed, now)
        while self._gone:
            self._arrivals.forget(self._gone.popleft())
        self._committed = now
        self._surprised = None

    def _weigh(self, took: float | None, tokens: float, answers: int) -> None:
        """Whether backs pay is another question for one answer than for several, whose rows share the passes anyway."""
        # By the curve as measured at load: one that follows the passes would make up for whatever backs cost them.
        cost, many, slower = self._at_load, self._under_way, self.sharing.curve(answers).slower
        alone = 1 / (cost(1) * min(1.0, slower)) if not self._beside else None
        if many == 1:
            self._governor.step(took, tokens, alone, slower)
            return
        # As if for one answer, so that it may be compared where their number changes: what the target does alone for
        # so many is what it does for one.
        shares = [many] if self._beside else range(1, many + 1)
        least = min(cost(count) / count for count in shares)
        seconds = took * cost(1) / (many * least) if took is not None else None
        self._governor_of_many.step(seconds, tokens / many, alone, slower)

    def next(
        self, trees: Sequence[GuessTree], now: float, offer: DraftOffer | None = None, room: int | None = None
    ) -> Action:
        """The guesses are taken in order of path probability over all trees together, a set that is closed under
        parents in each of them."""
        self._beside |= offer is not None
        self._under_way = len(trees)
        if not self._beside and room is None and len(trees) > 1:
            # A draft model beside the target works for all answers at once.
            trees = trees[: self._together(trees)]
        answers = len(trees)
        if self._surprised is None:
            self._surprised = any(not tree.root.children for tree in trees)
        best, ranked = self._likeliest(trees)
        if not ranked and offer is None and self._arrivals.nobody:
            return Verify([[] for _ in trees])  # nothing to choose, and nobody to wait for
        lookahead = self._lookahead(ranked, answers, self.sharing.rate(answers), room)
        most = len(lookahead.prices) - 1
        chosen, value = lookahead.choose(lookahead.worths)
        nodes: list[list[Node]] = [[] for _ in trees]
        for _, number, node in ranked[:chosen]:
            nodes[number].append(node)
        if chosen == most or room is not None:
            return Verify(nodes)
        leaves = [leaf for tree, of in zip(trees, best, strict=True) for leaf in self._leaves(tree, of)]
        if not leaves:
            return Verify(nodes)  # there is no place left to guess at
        due, left = self._due(now, answers)
        coming = self._arrivals.coming(due, leaves, left, ranks=self._ranks)
        waiting = max(0.0, lookahead.gain(value, coming, self._arrivals.every(due), WAITING))
        if offer is not None and self._drafts(lookahead, value, leaves, due, offer, waiting):
            self._missed = self._idle = 0.0
            return Expand(nodes)
        if waiting > 0.0:
            self._arrivals.wait(due[0][1])
            return Wait(nodes, min(due[0][0] * 1.05 + 1e-6, left))
        return Verify(nodes)

    def _likeliest(self, trees: Sequence[GuessTree]) -> tuple[list[list[tuple[Node, float]]], list[_Ranked]]:
        """The guesses of each answer that may be verified, and those of all, likeliest first."""
        best = [self.limits.likeliest(tree, self._max_guesses) for tree in trees]
        ranked = [(path, number, node) for number, of in enumerate(best) for node, path in of]
        ranked.sort(key=_falling)  # stable: parents stay before children that are as likely
        return best, ranked

    def lookahead(self, trees: Sequence[GuessTree], rate: float) -> Lookahead:
        """What a forward pass for these answers may bring, at so many tokens per second."""
        return self._lookahead(self._likeliest(trees)[1], len(trees), rate, None)

    def _lookahead(self, ranked: Sequence[_Ranked], answers: int, rate: float, room: int | None) -> Lookahead:
        """Of a forward pass for so many answers, with guesses of theirs."""
        limits, cost = self.limits, self.sharing.curve(answers)
        most = min(answers * self._max_guesses, limits.rows - answers)
        if room is not None:
            most = min(most, room)
        prices = [rate * cost(answers + count) for count in range(most + 1)]
        paths = [path for path, _, _ in ranked]
        if self._replay is None:
            return Lookahead(paths, prices, rate, limits.draft_min, paths)
        toll = self._replay.toll
        worths, above, numbers = list[float](), [1.0] * answers, [0] * answers
        for path, answer, _ in ranked:
            numbers[answer] += 1
            worths.append(path - rate * toll(above[answer], path, numbers[answer]))
            above[answer] = path
        return Lookahead(paths, prices, rate, limits.draft_min, worths, toll, answers)

    def _together(self, trees: Sequence[GuessTree]) -> int:
        """How many of the answers, the first ones, should share the next forward pass."""

        def value(count: int, rate: float) -> float:
            lookahead = self.lookahead(trees[:count], rate)
            return count - 1 + lookahead.choose(lookahead.worths)[1]

        return self.sharing.choose(len(trees), value)

    def _due(self, now: float, answers: int) -> tuple[list[tuple[float, str]], float]:
        """Whose messages are due when, and how long one may wait.

        Never longer after a commit than a forward pass takes, whatever is forecast: what a back says must not be able
        to hold up an answer.
        """
        committed = self._committed if self._committed is not None else now
        left = committed + self.sharing.curve(answers)(answers) - now
        if self.resting:
            return [], left
        return self._arrivals.due(now, committed, bool(self._surprised), left), left

    def _drafts(
        self,
        lookahead: Lookahead,
        value: float,
        leaves: Sequence[float],
        due: Sequence[tuple[float, str]],
        offer: DraftOffer,
        waiting: float,
    ) -> bool:
        """Whether the own draft model should expand something; to wait for backs instead would bring `waiting`."""
        if self._idle * MIN_LOCAL_SHARE > offer.first + offer.arrears:
            return True
        if waiting > 0.0 and due[0][0] < MAX_LATER * offer.first:
            return False
        forecast, ranks = self._arrivals, self._ranks

        def coming(first: Sequence[float] = ()) -> Iterator[Coming]:
            return forecast.coming(due, leaves, float("inf"), offer, first, ranks)

        every = max(offer.then, forecast.every(due)) * forecast.sure(due) if due else 0.0
        usual = lookahead.gain(value, coming(), every, DRAFTING, waiting)
        if usual > waiting and not offer.arrears:
            return True
        # What it finds may be worth going on from, or not: an average would not tell.
        more = -waiting
        for share, kind in forecast.kinds:
            more += share * lookahead.gain(value, coming(kind), every, DRAFTING)
        # What is in arrears is read once this would have been made good by what was missed for want of it.
        self._missed += max(0.0, more)
        return more > 0.0 and self._missed > lookahead.rate * offer.arrears

    def _leaves(self, tree: GuessTree, ranked: Sequence[tuple[Node, float]]) -> list[float]:
        """Path probabilities of the nodes that nothing is known below, where something could be of use."""
        if not self.limits.rollback.trees and len(ranked) >= self._max_guesses:
            return []  # the chain may not become longer

        def useful(node: Node) -> bool:
            return not node.children and tree.useful_below(node)

        if not tree.root.children:
            return [1.0] if useful(tree.root) else []
        return [path for node, path in ranked if useful(node)]


def _falling(ranked: _Ranked) -> float:
    return -ranked[0]
