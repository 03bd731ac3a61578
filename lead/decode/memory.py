"""Guesses without a model: text goes on as it went on before, in the prompt, in this answer or in an earlier one.

Text is kept by owner, which is the API key of the request. Nothing crosses from one owner to another, and the text is
bounded. `duo.draft.follower` follows it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from duo.draft.claims import Claims
from duo.draft.follower import Follower
from duo.draft.ngrams import PIECE, NgramIndex
from duo.guesses import Expansion
from duo.prefix import Prefix
from lead.plan.tree import GuessTree

NAME = "memory"
"""The name under which its guesses are in the tree."""
MAX_RUN = 64
"""Tokens of a run that is guessed ahead."""
MAX_TOKENS_OF_ALL = 1 << 18
"""Tokens of all owners together, about. The owner that asked least recently is forgotten first."""
MAX_OWNERS = 64


class Session(Protocol):
    """What memory sees of an answer: its number, its text so far, and the tree that its guesses go to."""

    @property
    def id(self) -> int: ...

    @property
    def prefix(self) -> Prefix: ...

    @property
    def tree(self) -> GuessTree: ...


class Memory:
    """What all answers have said and were asked. The decoder's thread uses it."""

    def __init__(self, max_tokens: int = MAX_TOKENS_OF_ALL) -> None:
        self._max_tokens = max_tokens
        self._owners: OrderedDict[str, NgramIndex] = OrderedDict()
        self._followers: dict[int, Follower] = {}
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
        self._followers[session.id] = Follower(index, index.open(session.prefix), self._claims)
        while len(self._owners) > MAX_OWNERS or (len(self._owners) > 1 and len(self) > self._max_tokens):
            self._owners.popitem(last=False)

    def end(self, session: Session) -> None:
        """The answer is over. Its text is kept."""
        self._followers.pop(session.id, None)

    def committed(self, session: Session, tokens: Sequence[int]) -> None:
        """The answer goes on."""
        if (follower := self._followers.get(session.id)) is not None:
            follower.extend(session.prefix, tokens)

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
            if follower is not None and (
                expansions := follower.expand(session.prefix, session.tree.by_hash, min(longest, MAX_RUN))
            ):
                found[session.id] = expansions
        return found
