"""The responses that the lead remembers, for `previous_response_id`, for references to items, and for GET.

It is bounded. The response that was not used for the longest time goes first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lead.http.responses.items import Item

MAX_RESPONSES = 1000
MAX_BYTES = 64 << 20
ITEM_BYTES = 1 << 10
"""What an item takes beside its text."""
POINTER_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What one response adds to its conversation: the items of its request, then those of its answer.

    made: how many the answer has. text: bytes of all of them.
    """

    items: Sequence[Item]
    made: int
    text: int

    @property
    def answer(self) -> Sequence[Item]:
        return self.items[len(self.items) - self.made :]

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self.text + ITEM_BYTES * len(self.items)


@dataclass(frozen=True, slots=True)
class Kept:
    """A response. turns: the whole conversation, to the end of the answer. Responses of one conversation share them.

    body: the response object as JSON. owner: whose it is. Nobody else finds it.
    """

    turns: Sequence[Turn]
    body: str
    owner: str

    @property
    def size(self) -> int:
        """About how many bytes it takes beside its turns."""
        return len(self.body) + POINTER_BYTES * len(self.turns)


def bytes_of(items: Sequence[Item]) -> int:
    """Bytes of the texts of these items. Takes a while for long ones."""
    return sum(len(item.model_dump_json()) for item in items)


def items_in(turns: Sequence[Turn]) -> Iterator[Item]:
    """The items of all these turns."""
    return (item for turn in turns for item in turn.items)


class Memory:
    """Belongs to the event loop."""

    def __init__(self, most: int = MAX_RESPONSES, most_bytes: int = MAX_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._made: dict[tuple[str, str], Item] = {}
        """The items of answers, by owner and id. Items of requests have ids that a client chose."""
        self._uses: Counter[Turn] = Counter()
        """How many responses hold a turn. It counts once, for as long as one of them does."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """About how many bytes all of it takes."""
        return self._bytes

    def keep(self, response_id: str, kept: Kept) -> None:
        """Remembers a response. One that is too large alone is forgotten at once."""
        self._kept[response_id] = kept
        self._bytes += kept.size + sum(turn.size for turn in kept.turns if turn not in self._uses)
        self._uses.update(kept.turns)
        self._made |= {(kept.owner, item.id): item for item in kept.turns[-1].answer if item.id}
        while self._bytes > self._most_bytes or len(self._kept) > self._most:
            self._drop(next(iter(self._kept)))

    def find(self, response_id: str, owner: str) -> Kept | None:
        """The response, if the lead remembers it and it is the owner's."""
        kept = self._kept.get(response_id)
        if kept is None or kept.owner != owner:
            return None
        self._kept.move_to_end(response_id)
        return kept

    def item(self, item_id: str, owner: str) -> Item | None:
        """An item of an answer to the owner, if the lead remembers it."""
        return self._made.get((owner, item_id))

    def forget(self, response_id: str, owner: str) -> bool:
        """Whether it was there, and the owner's."""
        if self.find(response_id, owner) is None:
            return False
        self._drop(response_id)
        return True

    def _drop(self, response_id: str) -> None:
        kept = self._kept.pop(response_id)
        self._bytes -= kept.size
        for turn in kept.turns:
            self._uses[turn] -= 1
            if not self._uses[turn]:
                del self._uses[turn]
                self._bytes -= turn.size
        for item in kept.turns[-1].answer:
            self._made.pop((kept.owner, item.id or ""), None)
