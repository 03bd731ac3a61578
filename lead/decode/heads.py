"""Guesses of a head: a small network over the target's own hidden states (see `duo.engines.heads`).

It is asked after each verified pass, at the end of each answer, for all answers in one pass of the head. It guesses a
line of the likeliest tokens, with the next likeliest beside each. It goes on while a further token is expected to bring
more than it costs. A head that brings less than it costs rests, and is tried again later and later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from duo.draft.scaling import Scale, Sharpness
from duo.engines.base import Logits, Vocabulary
from duo.engines.heads import Head, Tip
from duo.errors import DeadEndError, RequestError
from duo.guesses import Expansion
from duo.prefix import extend_hash
from duo.sampling.grammar import Grammars
from duo.sampling.params import Constraint
from duo.sampling.sampler import Sampler
from lead.decode.session import Session

NAME = "heads"
"""The name under which its guesses are in the tree."""
CHILDREN = 3
"""Guesses for one place."""
MIN_PATH = 0.05
"""A place with a less likely path gets no guesses, and a less likely second guess is left out."""
SURE = 0.9
"""Where memory claims a token with this chance, the head is not asked."""
SMOOTHING = 0.05
TRIAL_ROUNDS = 12
"""Rounds of guesses after which a head is judged."""
MIN_REST, MAX_REST = 32, 1024
"""Steps that a head rests if it does not pay. Each time it rests twice as long, up to the second number."""

log = logging.getLogger("lead")


@dataclass(slots=True)
class _Place:
    """What was guessed for one token. `picks`: the guess by each candidate of `Sharpness`."""

    tokens: Sequence[int]
    chances: Sequence[float]
    picks: Sequence[int]


@dataclass(slots=True)
class _Answer:
    """An answer, and the line that was guessed last."""

    sampler: Sampler
    line: list[_Place] = field(default_factory=list)


class _Record:
    """Whether guessing pays. It is told of each round: its seconds, and how many of its guesses became tokens."""

    def __init__(self) -> None:
        self.step_seconds = 0.0
        """Of one pass of the head, lately."""
        self._seconds = self._tokens = 0.0
        self._rounds = 0
        self._resting = 0
        self._rest = MIN_REST

    def ready(self) -> bool:
        """Whether to guess in this step."""
        self._resting = max(0, self._resting - 1)
        return not self._resting

    def step(self, seconds: float) -> None:
        """One pass of the head took so long."""
        self.step_seconds += (SMOOTHING if self.step_seconds else 1.0) * (seconds - self.step_seconds)

    def round(self, seconds: float) -> None:
        """All passes of one step took so long."""
        self._seconds += seconds
        self._rounds += 1

    def brought(self, tokens: int, rate: float) -> None:
        """So many guesses of the last round became tokens. `rate`: tokens per second lately."""
        self._tokens += tokens
        if self._rounds < TRIAL_ROUNDS:
            return
        if self._tokens < rate * self._seconds:
            self._resting, self._rest = self._rest, min(MAX_REST, 2 * self._rest)
        else:
            self._rest = MIN_REST
        self._seconds = self._tokens = 0.0
        self._rounds = 0


class Heads:
    """The head of a target, and all answers that it guesses for. The decoder's thread uses it."""

    def __init__(self, head: Head, vocabulary: Vocabulary, max_guesses: int) -> None:
        """`max_guesses`: of one answer, in one line."""
        self._head = head
        self._depth = min(head.depth, max_guesses)
        self._grammars = Grammars(vocabulary)
        self._answers: dict[int, _Answer] = {}
        self._scale, self._sharpness = Scale(), Sharpness()
        self._usual = 0.5
        """Chance of the likeliest guess, as usual."""
        self._records = {False: _Record(), True: _Record()}
        """Of one answer, and of several."""
        self._brought = 0
        """Guesses that became tokens since the last round."""
        self._pending: _Record | None = None
        """The record of the last round, until it is known what that brought."""

    def begin(self, session: Session) -> None:
        """An answer begins."""
        prompt = session.prefix.tokens[: session.prompt_length]
        self._answers[session.id] = _Answer(Sampler(session.params, prompt, self._constraint(session.params.grammar)))

    def _constraint(self, grammar: str) -> Constraint | None:
        """The answer's grammar. The target's own copy has limits, which guesses must not use up."""
        try:
            return self._grammars.constraint(grammar) if grammar else None
        except RequestError:
            return None

    def end(self, session: Session) -> None:
        """The answer is over."""
        self._answers.pop(session.id, None)

    def committed(self, session: Session, tokens: Sequence[int]) -> None:
        """These tokens of the answer, the last ones, are final."""
        if (answer := self._answers.get(session.id)) is None:
            return
        for at, (place, token) in enumerate(zip(answer.line, tokens, strict=False)):
            right = place.tokens.index(token) if token in place.tokens else None
            self._scale.outcome(place.chances, right)
            if place.picks and self._sharpness.outcome(place.picks, token):
                self._scale.restart()
            # The last token is the target's own pick after all guesses that were right.
            self._brought += right is not None and at + 1 < len(tokens)
            if right != 0:
                break
        answer.line.clear()

    def guesses(self, sessions: Iterable[Session], rate: float) -> Mapping[int, Sequence[Expansion]]:
        """Guesses at the ends of these answers, by session. `rate`: tokens per second of all answers lately."""
        if self._pending is not None:
            self._pending.brought(self._brought, rate)
        self._pending, self._brought = None, 0
        asked = {it.slot: it for it in sessions if it.id in self._answers and not _served(it)}
        record = self._records[len(asked) > 1]
        if not asked or not record.ready():
            return {}
        began = time.perf_counter()
        found = self._lines(asked, rate, record)
        record.round(time.perf_counter() - began)
        self._pending = record
        return found

    def _lines(self, asked: Mapping[int, Session], rate: float, record: _Record) -> Mapping[int, Sequence[Expansion]]:
        found: dict[int, list[Expansion]] = {it.id: [] for it in asked.values()}
        paths = dict.fromkeys(asked, 1.0)
        lines: dict[int, list[int]] = {slot: [] for slot in asked}
        began = time.perf_counter()
        logits = self._head.begin([Tip(slot, it.prefix.tokens) for slot, it in asked.items()])
        for ahead in range(1, self._depth + 1):
            if ahead > 1:
                record.step(time.perf_counter() - began)
            for slot, row in logits.items():
                paths[slot] *= self._guess(asked[slot], row, lines[slot], found[asked[slot].id])
            going = {slot: lines[slot][-1] for slot in logits if paths[slot] >= MIN_PATH and len(lines[slot]) == ahead}
            worth = self._usual * sum(paths[slot] for slot in going)
            if not going or ahead == self._depth or worth < rate * record.step_seconds:
                break
            began = time.perf_counter()
            logits = self._head.step(going)
        return {number: expansions for number, expansions in found.items() if expansions}

    def _guess(self, session: Session, row: Logits, line: list[int], found: list[Expansion]) -> float:
        """Rank the guesses after the line. Returns the chance of the likeliest one, which the line goes on with."""
        answer = self._answers[session.id]
        so_far = [*session.completion, *line]
        if line and line[-1] in session.eos:
            return 0.0
        try:
            ranked = answer.sampler.rank(row, so_far, CHILDREN, self._scale.value, self._sharpness.value)
            picks = (
                answer.sampler.picks(row, so_far, Sharpness.CANDIDATES)
                if session.params.temperature and not line
                else ()
            )
        except DeadEndError:
            return 0.0
        ranked = ranked[:1] + [guess for guess in ranked[1:] if guess[1] >= MIN_PATH]
        tokens, chances = [token for token, _ in ranked], [chance for _, chance in ranked]
        answer.line.append(_Place(tokens, chances, picks))
        prefix_hash = session.prefix.hash
        for token in line:
            prefix_hash = extend_hash(prefix_hash, token)
        found.append(Expansion(len(session.prefix) + len(line), prefix_hash, tokens, chances))
        line.append(tokens[0])
        chance = session.calibration[NAME].chance(chances[0])
        self._usual += SMOOTHING * (chance - self._usual)
        return chance


def _served(session: Session) -> bool:
    """Whether another model has guessed the next token already, or memory is sure of it. That saves the head's time."""
    root = session.tree.root
    others = [child for child in root.children.values() if NAME not in child.chances]
    return bool(others) and (root.expanded or max(child.chance for child in others) >= SURE)
