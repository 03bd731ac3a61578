"""Calls of tools in a history: their ids, their arguments, and which result belongs to which call.

Clients leave ids out, make them up, or use one for several calls. The same history must give the same prompt each time,
because tokens of prompts are cached. So an id that is made up here depends on its place alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from duo.engines.base import Objects
from duo.engines.chat.traits import Ids
from duo.errors import RequestError

Copies = list[dict[str, Any]]
"""Messages or tools as templates get them: copies, which they may change."""

_NINE = re.compile("[a-zA-Z0-9]{9}")
_ONE_KEY = "arguments"
"""The key of arguments that are no object."""


def paired(messages: Objects) -> Copies:
    """Copies of the messages in which every call has an id, and every result has the id and the name of its call.

    Content is text everywhere. Fields that templates do not read are gone. Raises RequestError.
    """
    result: Copies = []
    number = 0
    for at, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise RequestError(f"messages[{at}].role is missing", "messages")
        turn: dict[str, Any] = {"role": message["role"], "content": message.get("content") or ""}
        if turn["role"] == "assistant":
            if message.get("reasoning_content"):
                turn["reasoning_content"] = message["reasoning_content"]
            if given := message.get("tool_calls"):
                where = f"messages[{at}].tool_calls"
                turn["tool_calls"] = [_call(call, f"{where}[{i}]", number + i) for i, call in enumerate(given)]
                number += len(given)
        elif turn["role"] == "tool":
            turn.update(tool_call_id=message.get("tool_call_id"), name=message.get("name"))
        result.append(turn)
    _match(result)
    return result


def as_object(arguments: object) -> dict[str, Any]:
    """Arguments of a call as an object, whatever a client or a model made of them."""
    value = _parsed(arguments)
    if isinstance(value, str):
        value = _parsed(value)  # some write JSON within JSON
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or value == "":
        return {}
    return {_ONE_KEY: arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)}


def as_text(arguments: object) -> str:
    """Arguments of a call as the JSON of an object. Text that is such JSON stays as the model wrote it."""
    if isinstance(arguments, str) and isinstance(_parsed(arguments), dict):
        return arguments
    return json.dumps(as_object(arguments), ensure_ascii=False)


def with_ids(turns: Copies, ids: Ids) -> Copies:
    """The same turns with ids of that form, at calls and at results. No two calls have the same one."""
    result: Copies = []
    new: defaultdict[str, deque[str]] = defaultdict(deque)  # by the old id, for calls that have no result yet
    seen = set[str]()
    number = made = 0
    for turn in turns:
        if turn["role"] == "assistant":
            new.clear()
            calls: Copies = []
            for call in turn.get("tool_calls") or ():
                id = _id(call["id"], call["function"]["name"], number, ids)
                made = max(made, number)
                while id in seen:
                    id = _id(_made_up(made), call["function"]["name"], made, ids)
                    made += 1
                seen.add(id)
                number += 1
                new[call["id"]].append(id)
                calls.append({**call, "id": id})
            turn = {**turn, "tool_calls": calls} if calls else turn
        elif turn["role"] == "tool":
            old = turn["tool_call_id"]
            left = new.get(old)
            turn = {**turn, "tool_call_id": left.popleft() if left else _id(old, turn["name"] or "tool", number, ids)}
        result.append(turn)
    return result


def _id(id: str, name: str, number: int, ids: Ids) -> str:
    if ids == "any":
        return id
    if ids == "nine":
        return id if _NINE.fullmatch(id) else hashlib.sha256(id.encode("utf-8", errors="replace")).hexdigest()[:9]
    return id if re.fullmatch(rf"functions\.{re.escape(name)}:\d+", id) else f"functions.{name}:{number}"


def _made_up(number: int) -> str:
    return f"call{number:05d}"


def _parsed(value: object) -> object:
    """The JSON that a text holds. The text itself if it holds none. Anything but a text stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # a model wrote it, or a limit cut it
        return value.strip()


def _call(call: Any, where: str, number: int) -> dict[str, Any]:
    match call:
        case {"function": {"name": str(name), **function}}:
            arguments = function.get("arguments")
            return {"id": str(call.get("id") or _made_up(number)), "function": {"name": name, "arguments": arguments}}
    raise RequestError(f"{where} names no function", "messages")


def _match(turns: Copies) -> None:
    """Gives each result the id and the name of its call: by id, else by name, else by order."""
    waiting: Copies = []
    at = 0
    while at < len(turns):
        turn = turns[at]
        if turn["role"] == "assistant":
            waiting = list(turn.get("tool_calls") or ())
        end = at + 1
        if turn["role"] == "tool":
            while end < len(turns) and turns[end]["role"] == "tool":
                end += 1
            results: Sequence[dict[str, Any]] = turns[at:end]
            for of_result, of_call in _KEYS:
                results, waiting = _matched(results, waiting, of_result, of_call)
            for i, result in enumerate(results):  # these answer no call
                result["tool_call_id"] = result["tool_call_id"] or f"tool{at + i:05d}"
        at = end


Key = Callable[[Mapping[str, Any]], object]
_KEYS: Sequence[tuple[Key, Key]] = (
    (lambda result: result["tool_call_id"], lambda call: call["id"]),
    (lambda result: result["name"], lambda call: call["function"]["name"]),
    (lambda result: "", lambda call: ""),
)
"""What is equal in a result and its call."""


def _matched(
    results: Sequence[dict[str, Any]], calls: Copies, of_result: Key, of_call: Key
) -> tuple[Sequence[dict[str, Any]], Copies]:
    """Matches results with calls whose keys are equal. Returns those that are left."""
    by_key: defaultdict[object, deque[dict[str, Any]]] = defaultdict(deque)
    for call in calls:
        by_key[of_call(call)].append(call)
    left, taken = list[dict[str, Any]](), set[int]()
    for result in results:
        found = by_key.get(of_result(result))
        if not found:
            left.append(result)
            continue
        call = found.popleft()
        taken.add(id(call))
        result["tool_call_id"] = call["id"]
        result["name"] = result["name"] or call["function"]["name"]
    return left, [call for call in calls if id(call) not in taken]
