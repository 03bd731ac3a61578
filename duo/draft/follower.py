"""Follows a text that is known: what comes next there is guessed for an answer.

The likeliest token is guessed, and the longest match that says it is followed. While the answer agrees, the match
grows, and so do the claims and the run. Other places that match give other guesses for the next token.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from duo.draft.claims import START, Claims, smoothed
from duo.draft.ngrams import Match, NgramIndex, Text
from duo.guesses import Expansion
from duo.prefix import Prefix, extend_hash

MIN_PATH = 0.02
"""A run ends where it is less likely than this."""
CHILDREN = 3
"""Guesses for the next token."""


@dataclass(slots=True, eq=False)
class Follower:
    """An answer, and the place in a text that it follows. `text`: the answer itself, with its prompt.

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

    def extend(self, prefix: Prefix, tokens: Sequence[int]) -> None:
        """The answer goes on with these tokens, the last of the prefix, as the run does or otherwise."""
        self.index.extend(self.text, prefix)
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

    def expand(self, prefix: Prefix, known: Container[int], longest: int) -> list[Expansion]:
        """Find a place to follow if there is none, and guess as far ahead as it deserves, at most `longest` tokens.

        `known`: hashes of the prefixes in the tree. A run that is no longer there is guessed again.
        """
        found: list[Expansion] = []
        if self.match is None or self._at_the_end or (self.run and self.hash not in known):
            self.match = None
            if not (matches := self.index.matches(self.text)):
                return found
            chance = self.claims.chance(matches[0].length, self.lately)
            guesses = _next(matches, len(prefix), prefix.hash, chance)
            self.match = next(it for it in matches if it.text.tokens[it.position] == guesses.tokens[0])
            self.run, self.chances, self.hash, self.others = [], [], prefix.hash, guesses.tokens[1:]
            found.append(guesses)
            self._append(guesses.tokens[0], guesses.probabilities[0])
        path = math.prod(self.chances)
        while len(self.run) < longest and (token := self._after_run()) is not None:
            chance = self.claims.chance(self.match.length + len(self.run), self.lately)
            if (path := path * chance) < MIN_PATH:
                break
            found.append(Expansion(len(prefix) + len(self.run), self.hash, [token], [chance]))
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
