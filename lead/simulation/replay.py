"""Recorded answers: what a real draft guessed at every place of a real target's text, and how to replay them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from duo.prefix import EMPTY, Prefix, extend_hash, mix
from lead.simulation.world import Asked, Guesses


@dataclass(frozen=True)
class Recorded:
    """One answer: its prompt, the target's picks, and at each place the draft's ranked guesses with their chances."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    guesses: Sequence[Guesses]

    def picked(self) -> Iterator[tuple[Guesses, int | None]]:
        """At every place the guesses, and which one was the target's pick; None if none was."""
        for token, guesses in zip(self.tokens, self.guesses, strict=True):
            ranked = [guess for guess, _ in guesses]
            yield guesses, ranked.index(token) if token in ranked else None


class Replayed:
    """An acceptance process that is a recording.

    All answers in a row, again and again, are one endless text. It follows the empty prefix and a single token 0, and
    each answer also follows its own prompt. There the guesses and picks are the recorded ones. On branches that the
    target does not take, the hash of the prefix chooses a place of the recording. So a wrong branch looks like other
    text of the draft.
    """

    def __init__(self, answers: Sequence[Recorded]) -> None:
        self._answers = answers
        self._prompts: list[Sequence[int]] = []
        self._tokens = [token for answer in answers for token in answer.tokens]
        self._guesses = [guesses for answer in answers for guesses in answer.guesses]
        self._places = {EMPTY: 0, Prefix([0]).hash: 0}
        """Prefixes of the text that somebody has come to, each with its place. One comes to a prefix by the one before
        it, so it is known in time."""
        start = 0
        for answer in answers:
            prompt = list(answer.prompt)
            while Prefix(prompt).hash in self._places:  # a question that was asked twice and had two answers
                prompt[-1] += 1
            self._prompts.append(prompt)
            self._places[Prefix(prompt).hash] = start
            start += len(answer.tokens)

    def _place(self, prefix_hash: int) -> int:
        place = self._places.get(prefix_hash)
        if place is None:
            return mix(prefix_hash) % len(self._tokens)
        self._places[extend_hash(prefix_hash, self._tokens[place])] = (place + 1) % len(self._tokens)
        return place

    def ranked(self, prefix_hash: int, length: int = 0) -> Guesses:
        return self._guesses[self._place(prefix_hash)]

    def truth(self, prefix_hash: int, length: int = 0) -> int:
        return self._tokens[self._place(prefix_hash)]

    @property
    def mean(self) -> float:
        """How often the first guess was right."""
        right = sum(guesses[0][0] == token for guesses, token in zip(self._guesses, self._tokens, strict=True))
        return right / len(self._tokens)

    def asked(self, tokens: int) -> list[Asked]:
        """The recorded answers in turns, up to this many tokens."""
        made: list[Asked] = []
        while tokens > 0:
            number = len(made) % len(self._answers)
            made.append(Asked(self._prompts[number], min(tokens, len(self._answers[number].tokens))))
            tokens -= made[-1].tokens
        return made
