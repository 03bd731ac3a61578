"""What the lead remembers of responses, and what it forgets."""

from __future__ import annotations

from lead.http.responses.items import MessageItem
from lead.http.responses.memory import Kept, Memory


def kept(name: str, size: int = 10, past: tuple[MessageItem, ...] = ()) -> Kept:
    asked = MessageItem(id=f"asked_{name}", role="user", content="Hi")
    made = MessageItem(id=f"made_{name}", role="assistant", content=f"I am {name}")
    return Kept((*past, asked, made), 1, f'"{name}"', size)


def test_what_was_kept_is_found_until_it_is_forgotten() -> None:
    memory = Memory()
    memory.keep("a", kept("a"))
    found = memory.find("a")
    assert found is not None and found.body == '"a"' and memory.bytes == 10
    assert memory.find("b") is None
    assert memory.forget("a") and not memory.forget("a")
    assert memory.find("a") is None and memory.item("made_a") is None and memory.bytes == 0


def test_items_of_answers_are_found_by_id_and_those_of_requests_are_not() -> None:
    """A client chooses the ids of its own items. It must not speak in the conversation of another one."""
    memory = Memory()
    memory.keep("a", kept("a"))
    item = memory.item("made_a")
    assert isinstance(item, MessageItem) and item.content == "I am a"
    assert memory.item("asked_a") is None


def test_the_number_is_bounded_and_the_oldest_use_goes_first() -> None:
    memory = Memory(most=2)
    memory.keep("a", kept("a"))
    memory.keep("b", kept("b"))
    assert memory.find("a") is not None
    memory.keep("c", kept("c"))
    assert [name for name in "abc" if memory.find(name)] == ["a", "c"]
    assert memory.item("made_b") is None and len(memory) == 2


def test_the_bytes_are_bounded() -> None:
    memory = Memory(most_bytes=100)
    for name in "abcde":
        memory.keep(name, kept(name, 30))
    assert [name for name in "abcde" if memory.find(name)] == ["c", "d", "e"] and memory.bytes == 90
    memory.keep("large", kept("large", 101))
    assert memory.find("large") is None and len(memory) == 0 and memory.bytes == 0
