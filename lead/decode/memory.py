"""Guesses without a model: text goes on as it went on before, in the prompt, in this answer or in an earlier one.

Text is kept by owner, which is the API key of the request. Nothing crosses from one owner to another, and the text is
bounded. The likeliest token is guessed, and the longest match that says it is followed. While the answer agrees, the
match grows, and so do the claims and the run. Other places that match give other guesses for the next token.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from duo.draft.claims import START, Claims, smoothed
from duo.draft.ngrams import PIECE, Match, NgramIndex, Text
from duo.guesses import Expansion
from duo.prefix import extend_hash
from lead.decode.session import Session

NAME = "memory"
"""The name under which its guesses are in the tree."""
MAX_RUN = 64
"""Tokens of a run that is guessed ahead."""
MIN_PATH = 0.02
"""A run ends where it is less likely than this."""
CHILDREN = 3
"""Guesses for the next token."""
MAX_TOKENS_OF_ALL = 1 << 18
"""Tokens of all owners together, about. The owner that asked least recently is forgotten first."""
MAX_OWNERS = 64


@dataclass(slots=True, eq=False)
class _Follower:
    """An answer, and the place in a text that it follows.

    `run`: what the tree has of it. `chances`: how likely each of these tokens is. `hash`: of the run's end. `others`:
    the guesses beside its first token. `lately`: the share of guesses in this answer that were right.
    """

    index: NgramIndex
    text: Text
    claims: Claims
    match: Match | None = None
    run: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    hash: int = 0
    others: Sequence[int] = ()
    lately: float = START

    def extend(self, session: Session, tokens: Sequence[int]) -> None:
        """The answer goes on, as the run does or otherwise."""
        self.index.extend(self.text, session.prefix)
        if self.match is None:
            return
        if len(tokens) > len(self.run) and (after := self._after_run()) is not None:
            self.run.append(after)  # the target's own token may go on as the text does
        for at, (token, guess) in enumerate(zip(tokens, self.run, strict=False)):
            right = token == guess
            self.claims.outcome(self.match.length + at, self.lately, right or (not at and token in self.others))
            self.lately = smoothed(self.lately, right)
            if not right:
                self.match = None
                return
        self.others = ()
        count = len(tokens)
        if count > len(self.run):
            self.match = None
            return
        self.match = Match(self.match.text, self.match.position + count, self.match.length + count)
        del self.run[:count], self.chances[:count]

    def expand(self, session: Session, longest: int) -> list[Expansion]:
        """Find a place to follow if there is none, and guess as far ahead as it deserves, at most `longest` tokens."""
        found: list[Expansion] = []
        if self.match is None or self._at_the_end or (self.run and self.hash not in session.tree.by_hash):
            self.match = None
            if not (matches := self.index.matches(self.text)):
                return found
            chance = self.claims.chance(matches[0].length, self.lately)
            guesses = _next(matches, len(session.prefix), session.prefix.hash, chance)
            self.match = next(it for it in matches if it.text.tokens[it.position] == guesses.tokens[0])
            self.run, self.chances, self.hash, self.others = [], [], session.prefix.hash, guesses.tokens[1:]
            found.append(guesses)
            self._append(guesses.tokens[0], guesses.probabilities[0])
        path = math.prod(self.chances)
        while len(self.run) < min(longest, MAX_RUN) and (token := self._after_run()) is not None:
            chance = self.claims.chance(self.match.length + len(self.run), self.lately)
            if (path := path * chance) < MIN_PATH:
                break
            found.append(Expansion(len(session.prefix) + len(self.run), self.hash, [token], [chance]))
            self._append(token, chance)
        return found

    @property
    def _at_the_end(self) -> bool:
        """Whether nothing follows where the text is followed."""
        return not self.run and self._after_run() is None

    def _append(self, token: int, chance: float) -> None:
        self.run.append(token)
        self.chances.append(chance)
        self.hash = extend_hash(self.hash, token)

    def _after_run(self) -> int | None:
        """What comes next where the text is followed. An answer that repeats itself can be followed beyond its end."""
        assert self.match is not None
        text, at = self.match.text, self.match.position + len(self.run)
        if at < len(text.tokens):
            return text.tokens[at]
        beyond = at - len(text.tokens)
        return self.run[beyond] if text is self.text and beyond < len(self.run) else None


class Memory:
    """What all answers have said and were asked. The decoder's thread uses it."""

    def __init__(self, max_tokens: int = MAX_TOKENS_OF_ALL) -> None:
        self._max_tokens = max_tokens
        self._owners: OrderedDict[str, NgramIndex] = OrderedDict()
        self._followers: dict[int, _Follower] = {}
        self._claims = Claims()

    def __len__(self) -> int:
        """Tokens kept, and what the texts count beside them."""
        return sum(map(len, self._owners.values()))

    @property
    def owners(self) -> int:
        """How many owners have text here."""
        return len(self._owners)

    def begin(self, session: Session, owner: str) -> None:
        """An answer begins. `owner`: whose text it may be guessed from."""
        if (index := self._owners.pop(owner, None)) is None:
            index = NgramIndex()
        self._owners[owner] = index
        self._followers[session.id] = _Follower(index, index.open(session.prefix), self._claims)
        while len(self._owners) > MAX_OWNERS or (len(self._owners) > 1 and len(self) > self._max_tokens):
            self._owners.popitem(last=False)

    def end(self, session: Session) -> None:
        """The answer is over. Its text is kept."""
        self._followers.pop(session.id, None)

    def committed(self, session: Session, tokens: Sequence[int]) -> None:
        """The answer goes on."""
        if (follower := self._followers.get(session.id)) is not None:
            follower.extend(session, tokens)

    def guesses(
        self, sessions: Iterable[Session], read: int = 0, longest: int = MAX_RUN
    ) -> Mapping[int, Sequence[Expansion]]:
        """What the trees do not have yet, by session. A piece of what was not indexed yet is indexed before.

        `read`: tokens of prompts that the next forward pass reads. So many more are indexed, which takes far less time.
        `longest`: tokens of the longest run; 0: no guess would be of use.
        """
        left = PIECE + read
        for index in reversed(self._owners.values()):
            if left <= 0:
                break
            left -= index.catch_up(left)
        found = {}
        for session in sessions if longest else ():
            follower = self._followers.get(session.id)
            if follower is not None and (expansions := follower.expand(session, longest)):
                found[session.id] = expansions
        return found


def _next(matches: Sequence[Match], length: int, prefix_hash: int, chance: float) -> Expansion:
    """What comes next at these places, the likeliest first. Each counts by the square of how many tokens agree.

    `chance`: that it is among them.
    """
    weights: defaultdict[int, float] = defaultdict(float)
    for text, position, agreed in matches:
        weights[text.tokens[position]] += agreed * agreed
    tokens = sorted(weights, key=lambda token: -weights[token])[:CHILDREN]
    scale = chance / sum(weights.values())
    return Expansion(length, prefix_hash, tokens, [scale * weights[token] for token in tokens])
