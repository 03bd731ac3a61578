"""The responses that the lead remembers, for `previous_response_id`, for references to items, and for GET.

It is bounded. The response that was not used for the longest time goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from lead.http.responses.items import Item

MAX_RESPONSES = 1000
MAX_BYTES = 64 << 20
ITEM_BYTES = 1 << 10
"""What an item takes beside its text."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A response. items: the whole conversation, to the end of the answer. made: how many of them the answer has.

    body: the response object as JSON. size: about how many bytes it takes.
    """

    items: Sequence[Item]
    made: int
    body: str
    size: int


class Memory:
    """Belongs to the event loop."""

    def __init__(self, most: int = MAX_RESPONSES, most_bytes: int = MAX_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._made: dict[str, Item] = {}
        """The items of answers, by id. Items of requests have ids that a client chose."""
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
        self._bytes += kept.size
        self._made |= {item.id: item for item in _made(kept) if item.id}
        while self._bytes > self._most_bytes or len(self._kept) > self._most:
            self.forget(next(iter(self._kept)))

    def find(self, response_id: str) -> Kept | None:
        """The response, if the lead remembers it."""
        if response_id in self._kept:
            self._kept.move_to_end(response_id)
        return self._kept.get(response_id)

    def item(self, item_id: str) -> Item | None:
        """An item of an answer, if the lead remembers it."""
        return self._made.get(item_id)

    def forget(self, response_id: str) -> bool:
        """Whether it was there."""
        kept = self._kept.pop(response_id, None)
        if kept is None:
            return False
        self._bytes -= kept.size
        for item in _made(kept):
            self._made.pop(item.id or "", None)
        return True


def _made(kept: Kept) -> Sequence[Item]:
    return kept.items[len(kept.items) - kept.made :]
