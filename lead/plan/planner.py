"""Which guesses to verify in the next forward pass, and whether to wait for better ones.

The planner takes the likeliest nodes first, by path probability, so their parents always come with them. It takes the
count k that maximises

    expected new tokens(k)  -  rate x cost(k)

cost(k) is the measured cost curve. rate is the tokens per second achieved lately, because time lost now is paid at that
rate. (Maximising the tokens per second of this step alone is not the same, and worse.)

Two more choices are this comparison, with time added to the cost: to wait for guesses that will arrive soon
(`lead.plan.arrivals`), and to draft some beside the target (`lead.plan.lookahead`). A third one is how many answers
share the pass (`lead.plan.sharing`).
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
from lead.plan.ratio import Ratio
from lead.plan.sharing import Sharing
from lead.plan.speculation import Action, Expand, Speculation, Verify, Wait
from lead.plan.speedup import Benefit, Counted, Gain, Lately, Speedup
from lead.plan.tree import GuessTree, Node, Place

MAX_LATER = 1.25
"""Leave it to a back if its guesses come within this many times what the draft model beside the target takes."""
MIN_LOCAL_SHARE = 0.004
"""Share of the time that the draft model beside the target gets in any case. Else nothing would be learned of it."""


COPIED_TOKENS = 4.0
"""An answer is being copied from what was there before if memory expects to be right about so many tokens."""
SURE_TOKEN = 0.98
"""Memory is hardly ever surer of a token than this."""
LONGEST_STEPS = 16
"""How long a run of memory may pay is found out once in so many steps."""
LEVEL_FADE = 1 - 1 / 32
"""How fast it is forgotten how long passes took."""


_Ranked = tuple[float, int, Node]
"""A guess: its path probability, the number of its answer, its node."""


class Planner(Speculation):
    """Plans the steps of a lead."""

    def __init__(self, cost: CostCurve, limits: Limits, replay: Replay | None = None) -> None:
        """`replay`: what guesses cost beyond their rows, for a model that goes back to a checkpoint."""
        super().__init__(limits)
        self.sharing = Sharing(cost)
        self._replay = replay
        self._max_guesses = limits.max_guesses
        self._ranks = RANKS if limits.rollback.trees else 1
        """Guesses of a place that may be verified."""
        self._at_load = copy.deepcopy(cost)
        """As measured when the model was loaded."""
        self._copying = False
        """Whether the last plan was for answers that memory had long runs for."""
        self._longest: dict[int, int] = {}
        """The longest run of memory that may pay, by the number of answers. Emptied once in `LONGEST_STEPS`."""
        self._steps = 0
        self._under_way = 1
        """How many answers were under way at the last plan."""
        self._committed: float | None = None
        self._arrivals = Arrivals()
        self._governor, self._governor_of_many = Governor(), Governor()
        self._lately, self._lately_of_many = Lately(), Lately()
        self._level, self._level_of_many = Ratio(), Ratio()
        """Seconds of forward passes with backs, over those measured at load."""
        self._present: tuple[str, ...] = ()
        """Connected backs. Another thread replaces the tuple."""
        self._gone: deque[str] = deque()
        """Backs that have left since the last step."""
        self._newcomer = False
        self._beside = False
        """Whether there is a draft model beside the target."""
        self._idle = 0.0
        """Seconds of decoding since the draft model beside the target was asked last."""
        self._missed = 0.0
        """Tokens that were missed because that draft model had tokens left to read."""
        self._surprised: bool | None = None
        """Whether the last commit led an answer to a place without guesses. None until the next plan looks."""

    @property
    def resting(self) -> bool:
        return self._judge.resting

    @property
    def _judge(self) -> Governor:
        return self._governor if self._under_way == 1 else self._governor_of_many

    @property
    def benefit(self) -> Benefit | None:
        one, many = self._of_one(), self._of_many()
        return one or many if self._under_way == 1 else many or one

    def _of_one(self) -> Benefit | None:
        it = self._governor
        return self._lately.benefit(it.correction, it.state if self._present else "none", it.alone, it.trial_in)

    def _of_many(self) -> Benefit | None:
        # Their speed alone was measured as if there were one.
        it = self._governor_of_many
        return self._lately_of_many.benefit(it.correction, it.state if self._present else "none", 0.0, it.trial_in)

    def speedup(self, gain: Gain) -> Speedup | None:
        return gain.speedup(self._governor.correction, self._governor_of_many.correction)

    def rate(self, answers: int) -> float:
        return self.sharing.rate(answers)

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
            # Heard late, so the time says nothing of when messages come.
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
        unaided: int = 0,
    ) -> Counted | None:
        if self._newcomer:
            self._newcomer = False
            self._governor.newcomer()
            self._governor_of_many.newcomer()
            self._lately, self._lately_of_many = Lately(), Lately()
        took = max(now - self._committed, 1e-9) if self._committed is not None and not read else None
        passed = seconds if not read else None
        if self._replay is not None:
            passed = self._replay.observe(rows, passed, replayed)
        if passed is not None:
            self.sharing.curve(answers).observe(rows, passed)
        self.sharing.step(answers, took, tokens, self._copying)
        self._steps += 1
        if not self._steps % LONGEST_STEPS:
            self._longest.clear()
        self._idle += took or 0.0
        if passed is not None and self._present and not self.resting:
            self._levels.step(passed, self._at_load(rows), LEVEL_FADE)
        counted = self._counted() if took is not None else None
        if self._present and self._committed is not None:
            if counted is not None and took is not None and not counted.resting:
                lately = self._lately_of_many if counted.several else self._lately
                lately.step(took, (tokens - unaided) / self._under_way, counted.expected)
            # A step that verifies what backs said before they came to rest is not the target alone.
            left_over = self.resting and not self._beside and rows > answers
            self._weigh(took if not left_over else None, tokens - unaided, answers)
        if self._surprised and self._committed is not None and not self.resting:
            self._arrivals.passed(self._committed, now)
        while self._gone:
            self._arrivals.forget(self._gone.popleft())
        self._committed = now
        self._surprised = None
        return counted

    def _counted(self) -> Counted:
        """What the step that has ended says about backs."""
        return Counted(
            self._expected,
            self._under_way > 1,
            bool(self._present),
            self.resting or not self._present,
        )

    @property
    def _levels(self) -> Ratio:
        return self._level if self._under_way == 1 else self._level_of_many

    @property
    def _expected(self) -> float:
        """Seconds that a token of one answer takes alone, if all passes take as much longer as those with backs."""
        return self._levels.value * self._alone_by(self._at_load, self._under_way)

    def _alone_by(self, cost: CostCurve, many: int) -> float:
        """Seconds that a token of one of so many answers takes without guesses. They share passes, or take turns."""
        shares = [many] if self._beside else range(1, many + 1)
        return many * min(cost(count) / count for count in shares)

    def _weigh(self, took: float | None, tokens: float, answers: int) -> None:
        """Tell the governor of one answer, or that of several: the rows of several share passes even without backs."""
        # The curve as measured at load. One that follows the passes would hide what backs cost them.
        cost, many, slower = self._at_load, self._under_way, self.sharing.curve(answers).slower
        alone = 1 / (cost(1) * min(1.0, slower)) if not self._beside else None
        expected = self._expected
        if many == 1:
            self._governor.step(took, tokens, alone, slower, expected)
            return
        # Scaled to one answer, so that steps of different numbers of answers compare.
        scale = cost(1) / self._alone_by(cost, many)
        seconds = took * scale if took is not None else None
        self._governor_of_many.step(seconds, tokens / many, alone, slower, expected * scale)

    def next(
        self, trees: Sequence[GuessTree], now: float, offer: DraftOffer | None = None, room: int | None = None
    ) -> Action:
        """The likeliest guesses over all trees together are taken first."""
        self._beside |= offer is not None
        self._under_way = len(trees)
        if not self._beside and room is None and len(trees) > 1:
            # A draft model beside the target works for all answers at once.
            trees = trees[: self._together(trees)]
        answers = len(trees)
        if self._surprised is None:
            self._surprised = any(not tree.root.expanded for tree in trees)
        best, ranked = self._likeliest(trees)
        self._copying = sum(path for path, _, node in ranked if node.remembered) >= COPIED_TOKENS * answers
        if not ranked and offer is None and self._arrivals.nobody:
            return Verify([[] for _ in trees])  # nothing to choose, and nobody to wait for
        lookahead = self._lookahead(ranked, answers, self.sharing.rate(answers, self._copying), room)
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

    def longest_run(self, answers: int) -> int:
        if (longest := self._longest.get(answers)) is None:
            longest = self._longest[answers] = self._longest_run(answers)
        return longest

    def _longest_run(self, answers: int) -> int:
        cost, rate = self.sharing.curve(answers), self.sharing.rate(answers)
        alone, tokens, chance, best, longest = cost(answers), 0.0, 1.0, 0.0, 0
        for count in range(1, min(self._max_guesses, self.limits.rows - answers) + 1):
            chance *= SURE_TOKEN
            tokens += chance
            if (gain := tokens - rate * (cost(answers + count) - alone)) > best:
                best, longest = gain, count
        return longest

    def _likeliest(self, trees: Sequence[GuessTree]) -> tuple[list[list[tuple[Node, float]]], list[_Ranked]]:
        """The guesses that may be verified: by answer, and of all answers together. The likeliest come first."""
        best = [self.limits.likeliest(tree, self._max_guesses) for tree in trees]
        ranked = [(path, number, node) for number, of in enumerate(best) for node, path in of]
        ranked.sort(key=lambda guess: -guess[0])  # stable: parents stay before children that are as likely
        return best, ranked

    def lookahead(self, trees: Sequence[GuessTree], rate: float) -> Lookahead:
        """What a forward pass for these answers may bring, at so many tokens per second."""
        return self._lookahead(self._likeliest(trees)[1], len(trees), rate, None)

    def _lookahead(self, ranked: Sequence[_Ranked], answers: int, rate: float, room: int | None) -> Lookahead:
        """What a forward pass for this many answers may bring, with the guesses that are here."""
        limits, cost = self.limits, self.sharing.curve(answers)
        remembered = sum(node.remembered for _, _, node in ranked)
        most = min(answers * limits.of_models + remembered, answers * self._max_guesses, limits.rows - answers)
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
        """When which back's message is due, and how long the planner may wait.

        It never waits longer after a commit than a forward pass takes. So no back can hold up an answer.
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
        """Whether the draft model beside the target should expand something. To wait for backs instead would bring
        `waiting`, in tokens."""
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
        # Look at both outcomes, a sure guess and an unsure one: their average would hide that only one pays.
        more = -waiting
        for share, kind in forecast.kinds:
            more += share * lookahead.gain(value, coming(kind), every, DRAFTING)
        # It reads what it has left unread once the tokens missed so far would pay for that.
        self._missed += max(0.0, more)
        return more > 0.0 and self._missed > lookahead.rate * offer.arrears

    def _leaves(self, tree: GuessTree, ranked: Sequence[tuple[Node, float]]) -> list[float]:
        """Path probabilities of the places that no model has expanded, where guesses could be of use."""
        if not self.limits.rollback.trees:
            of_models = sum(not node.remembered for node, _ in ranked)
            if of_models >= self.limits.of_models or len(ranked) >= self._max_guesses:
                return []  # the chain is as long as it may be
        places = [(tree.root, 1.0), *ranked]
        return [path * node.open_share for node, path in places if node.open_share > 0.0 and tree.useful_below(node)]
