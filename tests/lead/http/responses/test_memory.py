"""What the lead remembers of responses, and what it forgets."""

from __future__ import annotations

from lead.http.responses.items import MessageItem
from lead.http.responses.memory import ITEM_BYTES, POINTER_BYTES, Kept, Memory, Turn, bytes_of, items_in

ME = "me"
BESIDE = POINTER_BYTES + 2 * ITEM_BYTES
"""What a response of one turn takes beside its body and its texts."""


def turn(name: str, text: int = 10) -> Turn:
    asked = MessageItem(id=f"asked_{name}", role="user", content="Hi")
    made = MessageItem(id=f"made_{name}", role="assistant", content=f"I am {name}")
    return Turn((asked, made), 1, text)


def kept(name: str, text: int = 10, before: tuple[Turn, ...] = ()) -> Kept:
    return Kept((*before, turn(name, text)), f'"{name}"', ME)


def test_what_was_kept_is_found_until_it_is_forgotten() -> None:
    memory = Memory()
    memory.keep("a", kept("a"))
    found = memory.find("a", ME)
    assert found is not None and found.body == '"a"' and memory.bytes == len(found.body) + 10 + BESIDE
    assert memory.find("b", ME) is None
    assert memory.forget("a", ME) and not memory.forget("a", ME)
    assert memory.find("a", ME) is None and memory.item("made_a", ME) is None and memory.bytes == 0


def test_items_of_answers_are_found_by_id_and_those_of_requests_are_not() -> None:
    """A client chooses the ids of its own items. It must not speak in the conversation of another one."""
    memory = Memory()
    memory.keep("a", kept("a"))
    item = memory.item("made_a", ME)
    assert isinstance(item, MessageItem) and item.content == "I am a"
    assert memory.item("asked_a", ME) is None


def test_the_number_is_bounded_and_the_oldest_use_goes_first() -> None:
    memory = Memory(most=2)
    memory.keep("a", kept("a"))
    memory.keep("b", kept("b"))
    assert memory.find("a", ME) is not None
    memory.keep("c", kept("c"))
    assert [name for name in "abc" if memory.find(name, ME)] == ["a", "c"]
    assert memory.item("made_b", ME) is None and len(memory) == 2


def test_the_bytes_are_bounded() -> None:
    one = 30 + len('"a"') + BESIDE
    memory = Memory(most_bytes=3 * one)
    for name in "abcde":
        memory.keep(name, kept(name, 30))
    assert [name for name in "abcde" if memory.find(name, ME)] == ["c", "d", "e"] and memory.bytes == 3 * one
    memory.keep("large", kept("large", 3 * one))
    assert memory.find("large", ME) is None and len(memory) == 0 and memory.bytes == 0


def test_a_long_conversation_counts_once() -> None:
    """Its responses share their turns. A turn takes its bytes for as long as one of them is there."""
    memory, turns, count = Memory(), tuple[Turn, ...](), 500
    for number in range(count):
        found = kept(f"{number:03}", 1000, turns)
        turns = tuple(found.turns)
        memory.keep(f"{number:03}", found)
    texts, bodies = count * (1000 + 2 * ITEM_BYTES), count * len('"000"')
    pointers = POINTER_BYTES * count * (count + 1) // 2
    assert memory.bytes == texts + bodies + pointers
    for number in range(count - 1):
        memory.forget(f"{number:03}", ME)
    last = memory.find("499", ME)
    assert last is not None and len(list(items_in(last.turns))) == 2 * count
    assert memory.bytes == texts + len('"499"') + POINTER_BYTES * count
    memory.forget("499", ME)
    assert memory.bytes == 0


def test_items_weigh_what_their_texts_do() -> None:
    few, many = (bytes_of([MessageItem(role="user", content="x" * length)]) for length in (10, 1010))
    assert many - few == 1000


def test_another_owner_finds_and_forgets_nothing() -> None:
    memory = Memory()
    memory.keep("a", kept("a"))
    assert memory.find("a", "other") is None and memory.item("made_a", "other") is None
    assert not memory.forget("a", "other")
    assert memory.find("a", ME) is not None and memory.item("made_a", ME) is not None
