"""Checks of calls that engines make alike.

ValueError is the caller's mistake. ContextError means that something does not fit. Nothing has changed in either case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from duo.engines.base import Chunk, Row
from duo.engines.slot_copy import SlotCopy
from duo.errors import ContextError

T = TypeVar("T")


def width_of(rows: Sequence[Row], chunks: Sequence[Chunk], batch: int) -> int:
    """Rows and tokens of a forward pass. Raises ValueError if they are more than the batch."""
    width = len(rows) + sum([len(chunk.tokens) for chunk in chunks])
    if width > batch:
        raise ValueError(f"{width} rows are more than the batch of {batch}")
    return width


def check_capacity(rows: int, capacity: int) -> None:
    """Raises ContextError if `rows` live rows do not fit."""
    if rows > capacity:
        raise ContextError(f"{rows} rows do not fit: there is room for {capacity}")


def check_rows(rows: Iterable[Row], live: Collection[int], vocabulary: int) -> None:
    """Raises ValueError if a row's id is negative or in use, or if its token is not in the vocabulary.

    live: ids in use. vocabulary: its size.
    """
    fresh: set[int] = set()
    for row, _, token, _, _ in rows:
        if row < 0 or row in live or row in fresh:
            raise ValueError(f"row {row} is negative or in use")
        if not 0 <= token < vocabulary:
            raise ValueError(f"token {token} is not in the vocabulary of {vocabulary}")
        fresh.add(row)


def check_chunk(slot: int, tokens: Sequence[int], taken: bool, vocabulary: int) -> None:
    """Raises ValueError if the slot cannot take the chunk. taken: it has rows or another chunk."""
    if taken:
        raise ValueError(f"slot {slot} cannot take a chunk: it has rows or another one")
    check_tokens(tokens, vocabulary)


def check_tokens(tokens: Sequence[int], vocabulary: int) -> None:
    if not len(tokens) or not 0 <= min(tokens) <= max(tokens) < vocabulary:
        raise ValueError(f"a chunk is empty, or has a token that is not in the vocabulary of {vocabulary}")


def check_copy(copy: SlotCopy, tokens: Sequence[int], context: int, vocabulary: int) -> None:
    """Raises ContextError if a slot cannot be restored from the copy of one that held these tokens."""
    if len(tokens) != copy.length or any(not 0 <= token < vocabulary for token in tokens):
        raise ContextError(f"a copy of {copy.length} tokens is not of these {len(tokens)} tokens")
    check_context(copy.length, context)


def check_context(length: int, context: int) -> None:
    if length > context:
        raise ContextError(f"{length} tokens do not fit the context of {context}")


def check_cut(slot: int, tokens: int, length: int) -> None:
    """Raises ValueError if a slot with `tokens` tokens cannot be cut to `length`."""
    if not 0 <= length <= tokens:
        raise ValueError(f"slot {slot} has {tokens} tokens, it cannot be cut to {length}")


def check_share(source: int, tokens: int, length: int) -> None:
    """Raises ValueError if a slot with `tokens` tokens cannot share its first `length`."""
    if not 0 <= length <= tokens:
        raise ValueError(f"slot {source} has {tokens} tokens, the first {length} of them cannot be shared")


def at(slots: Sequence[T], slot: int) -> T:
    """The slot's entry. Raises ValueError if there is no such slot."""
    if not 0 <= slot < len(slots):
        raise ValueError(f"there is no slot {slot}")
    return slots[slot]


def path_nodes(slot: int, rows: Mapping[int, Any], path: Iterable[int], root: Any) -> list[Any]:
    """The nodes of a path to commit: a chain from `root` downwards. Raises ValueError if it is none.

    rows: the slot's live rows by id. Each has an `id` and a `parent`, which is another one or the root.
    """
    nodes: list[Any] = []
    end = root
    for row in path:
        node = rows.get(row)
        if node is None or node.parent is not end:
            raise ValueError(f"row {row} does not continue the path in slot {slot}")
        nodes.append(node)
        end = node
    return nodes


def kept_nodes(slot: int, rows: Mapping[int, Any], rest: Iterable[int], end: Any) -> dict[int, Any]:
    """The nodes that stay, by id. Raises ValueError if they are not a tree below `end`, the end of the path."""
    kept: dict[int, Any] = {}
    for row in rest:
        if row not in rows:
            raise ValueError(f"slot {slot} has no row {row}")
        kept[row] = rows[row]
    for node in kept.values():
        above = node.parent
        if above is not end and (above is None or kept.get(above.id) is not above):
            raise ValueError(f"the rows to keep have {node.id} without its parent")
    return kept
