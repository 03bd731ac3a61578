"""Rewrites conversations into a shape that a chat template takes.

Clients send whatever their API accepts. Templates are narrower: some know no system turn, some want user and assistant
to alternate, some want arguments as objects. Nothing of what was said is lost, and nothing is refused here.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from duo.engines.base import Objects
from duo.engines.chat import tools as _tools
from duo.engines.chat.calls import Copies, as_object, as_text, paired, with_ids
from duo.engines.chat.traits import FILLER, TemplateTraits


def rewritten(messages: Objects, tools: Objects, traits: TemplateTraits) -> tuple[Copies, Copies | None]:
    """Messages and tools in the shape that the template takes."""
    turns, given = paired(messages), [dict(tool) for tool in tools]
    if _tools.concern(turns, given) and not _native(turns, given, traits):
        turns, given = _tools.plain(turns, given), []
    turns = _placed_systems(with_ids(turns, traits.ids), traits)
    turns = _in_turns(_divided_calls(turns, traits), traits)
    return [_shaped(turn, traits) for turn in turns], given or None


def plainest(messages: Objects, tools: Objects, traits: TemplateTraits) -> Copies:
    """The same conversation as text of user and assistant by turns, which nearly every template takes."""
    turns = _tools.plain(paired(messages), tools)
    narrow = TemplateTraits(
        parts=traits.parts, system="none", users_in_a_row=False, assistants_in_a_row=False, assistant_first=False,
        needs_user=True, empty_user=False, empty_assistant=False,
    )  # fmt: skip
    turns = _in_turns(_placed_systems(turns, narrow), narrow)
    return [_shaped(turn, narrow) for turn in turns]


def _native(turns: Copies, tools: Copies, traits: TemplateTraits) -> bool:
    """Whether the template can write tools, calls and results itself."""
    if not traits.tools:
        return False
    if not tools and not traits.calls_without_tools:
        return False
    lost = traits.text_beside_calls == "lost"
    return not lost or not any(turn.get("tool_calls") and turn["content"] for turn in turns)


def _placed_systems(turns: Copies, traits: TemplateTraits) -> Copies:
    """Moves system turns to where they may stand. Those within a conversation become the user's."""
    if traits.system == "anywhere":
        return turns
    leading = 0
    while leading < len(turns) and turns[leading]["role"] == "system":
        leading += 1
    role = "user" if traits.system == "none" else "system"
    first = [{"role": role, "content": _joined([turn["content"] for turn in turns[:leading]])}] if leading else []
    rest = [{**turn, "role": "user"} if turn["role"] == "system" else turn for turn in turns[leading:]]
    return [*first, *rest]


def _divided_calls(turns: Copies, traits: TemplateTraits) -> Copies:
    """Divides turns that hold more than the template writes: text beside calls, or several calls."""
    if traits.parallel_calls and traits.text_beside_calls == "kept":
        return turns
    result: Copies = []
    at = 0
    while at < len(turns):
        turn = turns[at]
        at += 1
        calls = turn.get("tool_calls")
        if calls and turn["content"] and traits.text_beside_calls != "kept":
            result.append({key: value for key, value in turn.items() if key != "tool_calls"})
            if traits.text_beside_calls == "parted":
                result.append({"role": "user", "content": ""})
            turn = {"role": "assistant", "content": "", "tool_calls": calls}
        if not calls or len(calls) == 1 or traits.parallel_calls:
            result.append(turn)
            continue
        end = at
        while end < len(turns) and turns[end]["role"] == "tool":
            end += 1
        result += _one_by_one(turn, turns[at:end])
        at = end
    return result


def _one_by_one(turn: Mapping[str, Any], results: Copies) -> Copies:
    """A turn with several calls and their results as several turns, each with a call and its result."""
    answers: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
    for result in results:
        answers[result["tool_call_id"]].append(result)
    divided: Copies = []
    for call in turn["tool_calls"]:
        divided.append({**(turn if not divided else {"role": "assistant", "content": ""}), "tool_calls": [call]})
        if found := answers[call["id"]]:
            divided.append(found.popleft())
    return [*divided, *(result for left in answers.values() for result in left)]


def _in_turns(turns: Copies, traits: TemplateTraits) -> Copies:
    """Puts turns into an order that the template takes."""
    result: Copies = []
    nothing = "" if traits.empty_user else FILLER
    if traits.needs_user and not any(turn["role"] == "user" for turn in turns):
        turns = _with_user(turns)
    for turn in turns:
        role, last = turn["role"], result[-1] if result else {"role": "system"}
        if _empty(turn) and (role == "system" or (role == "assistant" and not traits.empty_assistant)):
            continue
        if role == last["role"] == "user" and not traits.users_in_a_row:
            result[-1] = {**last, "content": _joined([last["content"], turn["content"]])}
        elif role == last["role"] == "assistant" and not traits.assistants_in_a_row and not last.get("tool_calls"):
            result[-1] = _merged(last, turn)
        else:
            if role == "assistant" and last["role"] == "system" and not traits.assistant_first:
                result.append({"role": "user", "content": nothing})
            elif role == "user" and last["role"] == "tool" and not traits.user_after_tool:
                result.append({"role": "assistant", "content": "" if traits.empty_assistant else FILLER})
            result.append(dict(turn))
    if not traits.empty_user:
        result = [{**turn, "content": FILLER} if turn["role"] == "user" and _empty(turn) else turn for turn in result]
    return result or [{"role": "user", "content": nothing}]


def _with_user(turns: Copies) -> Copies:
    """The same with a turn of the user: the last system turn if there is nothing else, else an empty one."""
    if turns and all(turn["role"] == "system" for turn in turns):
        return [*turns[:-1], {**turns[-1], "role": "user"}]
    first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    return [*turns[:first], {"role": "user", "content": ""}, *turns[first:]]


def _merged(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Two turns of the assistant as one."""
    merged = {"role": "assistant"}
    for key in ("reasoning_content", "content"):
        text = _joined([first.get(key) or "", then.get(key) or ""])
        if text or key == "content":
            merged[key] = text
    return {**merged, "tool_calls": then["tool_calls"]} if then.get("tool_calls") else merged


def _empty(turn: Mapping[str, Any]) -> bool:
    return not (turn["content"] or turn.get("tool_calls") or turn.get("reasoning_content"))


def _joined(texts: Sequence[str]) -> str:
    return "\n\n".join([text for text in texts if text])


def _shaped(turn: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    """One turn with its fields as the template reads them. Thinking stands before content, and calls behind it."""
    role, content, calls = turn["role"], turn["content"], turn.get("tool_calls")
    thinking = turn.get("reasoning_content") if traits.thinking else None
    if thinking and content and calls and not traits.thinking_beside_text:
        thinking, content = _joined([thinking, content]), ""
    shaped: dict[str, Any] = {"role": role}
    if thinking:
        shaped[traits.thinking] = thinking
    if content or not calls or traits.content_beside_calls == "empty":
        shaped["content"] = [{"type": "text", "text": content}] if role in traits.parts else content
    elif traits.content_beside_calls == "null":
        shaped["content"] = None
    if calls:
        shaped["tool_calls"] = [_shaped_call(call, traits) for call in calls]
    if role == "tool":
        shaped["tool_call_id"] = turn["tool_call_id"]
        if turn.get("name"):
            shaped["name"] = turn["name"]
    return shaped


def _shaped_call(call: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    function = call["function"]
    arguments = as_text(function["arguments"]) if traits.arguments == "text" else as_object(function["arguments"])
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": arguments}}
