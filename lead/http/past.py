"""Images, sound and files in turns of the past.

The lead reads only text. A part that is none is refused where the answer is about it: it would answer another question.
But clients send the whole conversation every time. Further back, such a part would refuse all later turns, so there it
becomes a text that names it, such as "[image]".

A part belongs to the past once another side has spoken: the assistant's after anything else, a tool's result after
anything but results, and the user's after an answer. So whatever a person says next frees a conversation whose tool
returned an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Speaker = Literal["assistant", "result", "user"]

_AFTER: Mapping[Speaker, frozenset[Speaker]] = {
    "assistant": frozenset(["user", "result"]),
    "result": frozenset(["user", "assistant"]),
    "user": frozenset(["assistant"]),
}
"""Who has to speak later for a part to be of the past."""

_NAMES: Mapping[str, str] = {
    "image": "image", "image_url": "image", "input_image": "image", "computer_screenshot": "image",
    "input_audio": "audio", "audio_url": "audio", "video_url": "video", "input_video": "video",
    "file": "file", "input_file": "file", "container_upload": "file", "document": "document",
}  # fmt: skip
"""What a part of each type is called in its place."""


def in_chat(messages: object) -> object:
    """The messages of OpenAI's chat without unreadable parts of the past. Leaves wrong ones for the type to judge."""
    if not isinstance(messages, list):
        return messages
    past = _past([_of_role(message) for message in messages])
    return [_message(message) if old else message for message, old in zip(messages, past, strict=True)]


def in_items(items: Sequence[object]) -> list[object]:
    """The same for the items of a Responses request."""
    past = _past([_of_item(item) for item in items])
    return [_item(item) if old else item for item, old in zip(items, past, strict=True)]


def in_turns(messages: object) -> object:
    """The same for the messages of Anthropic's API. Results stand beside texts there, so each block counts alone."""
    if not isinstance(messages, list):
        return messages
    past = iter(_past([speaker for message in messages for speaker in _of_blocks(message)]))
    return [_turn(message, past) for message in messages]


def _past(speakers: Sequence[Speaker | None]) -> list[bool]:
    """Whether each of them belongs to the past. None: nobody speaks."""
    later = set[Speaker]()
    past = []
    for speaker in reversed(speakers):
        past.append(speaker is not None and not later.isdisjoint(_AFTER[speaker]))
        if speaker is not None:
            later.add(speaker)
    return past[::-1]


def _of_role(message: object) -> Speaker | None:
    match message:
        case {"role": "assistant"}:
            return "assistant"
        case {"role": "tool" | "function"}:
            return "result"
        case {"role": _}:
            return "user"
    return None


def _of_item(item: object) -> Speaker | None:
    match item:
        case {"role": _}:
            return _of_role(item)
        case {"type": str(kind)} if kind.endswith("_output"):
            return "result"
        case {"type": str(kind)} if kind.endswith("_call") or kind in ("reasoning", "item_reference"):
            return "assistant"
    return None


def _of_blocks(message: object) -> list[Speaker | None]:
    """Who speaks in each block of a message, or in its text."""
    match message:
        case {"content": list(blocks)}:
            speaker = _of_role(message)
            return ["result" if _is_result(block) else speaker for block in blocks]
    return [_of_role(message)]


def _is_result(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _message(message: Any) -> object:
    if message.get("role") == "assistant" and message.get("audio") is not None:
        message = {**message, "audio": None, "content": message.get("content") or "[audio]"}
    return _with_texts(message, "content")


def _item(item: Any) -> object:
    return _with_texts(_with_texts(item, "content"), "output")


def _turn(message: Any, past: Iterator[bool]) -> object:
    match message:
        case {"content": list(blocks)}:
            return {**message, "content": [_block(block) if next(past) else block for block in blocks]}
    next(past)
    return message


def _block(block: Any) -> object:
    return _with_texts(block, "content") if _is_result(block) else _text(block)


def _with_texts(holder: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """The same with texts in place of the parts in this field that cannot be read."""
    match holder.get(field):
        case list(parts):
            return {**holder, field: [_text(part) for part in parts]}
        case {"type": "computer_screenshot"} as part:
            return {**holder, field: [_text(part)]}
    return holder


def _text(part: Any) -> object:
    """The part, or a text in its place."""
    match part:
        case {"type": "document", "source": {"type": "text"}}:
            return part
        case {"type": "document", "source": {"type": "content", "content": list()} as source}:
            return {**part, "source": _with_texts(source, "content")}
        case {"type": str(kind)} if kind in _NAMES:
            return {"type": "text", "text": f"[{_NAMES[kind]}]"}
    return part
