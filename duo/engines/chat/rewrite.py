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
    turns, given = _joined_calls(_thinking(paired(messages), traits), traits), [dict(tool) for tool in tools]
    if _tools.concern(turns, given) and not _native(turns, given, traits):
        turns, given = _tools.plain(turns, given), []
    turns = _placed_systems(with_ids(turns, traits.ids), traits)
    turns = _in_turns(_divided_calls(turns, traits), traits)
    turns = _with_results(turns) if traits.results_beside_calls else turns
    return [_shaped(turn, traits) for turn in turns], given or None


def plainest(messages: Objects, tools: Objects, traits: TemplateTraits) -> Copies:
    """The same conversation as text of user and assistant by turns, which nearly every template takes."""
    turns = _tools.plain(_thinking(paired(messages), TemplateTraits()), tools)
    narrow = TemplateTraits(
        parts=traits.parts, system="none", users_in_a_row=False, assistants_in_a_row=False, assistant_first=False,
        needs_user=True, empty_user=False, empty_assistant=False,
    )  # fmt: skip
    turns = _in_turns(_placed_systems(turns, narrow), narrow)
    return [_shaped(turn, narrow) for turn in turns]


def _thinking(turns: Copies, traits: TemplateTraits) -> Copies:
    """The turns without thinking, if the template reads none."""
    if traits.thinking:
        return turns
    return [{key: value for key, value in turn.items() if key != "reasoning_content"} for turn in turns]


def _joined_calls(turns: Copies, traits: TemplateTraits) -> Copies:
    """Joins calls with what the assistant said in the turns right before them, if turns cannot follow each other."""
    if traits.assistants_in_a_row:
        return turns
    result: Copies = []
    said: Copies = []  # turns of the assistant, not in the result yet
    for turn in turns:
        if turn["role"] != "assistant":
            result += [*said, turn]
            said = []
        elif turn.get("tool_calls"):
            result.append(_merged([*said, turn]))
            said = []
        else:
            said.append(turn)
    return [*result, *said]


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
    turns = [turn for turn in turns if turn["role"] != "system" or turn["content"]]
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


def _with_results(turns: Copies) -> Copies:
    """Moves results into the turn of their calls. What the assistant says after them belongs there too."""
    result: Copies = []
    for turn in turns:
        last = result[-1] if result else {}
        answered = "tool_responses" in last
        if turn["role"] == "tool" and (last.get("tool_calls") or answered):
            if not answered:
                result[-1] = {**last, "tool_responses": []}
            result[-1]["tool_responses"].append({"name": turn["name"] or "tool", "response": turn["content"]})
        elif turn["role"] == "assistant" and answered and not (last["content"] or turn.get("tool_calls")):
            result[-1] = {**last, "content": turn["content"]}
        else:
            result.append(turn)
    return result


def _in_turns(turns: Copies, traits: TemplateTraits) -> Copies:
    """Puts turns into an order that the template takes."""
    groups: list[Copies] = []  # each becomes one turn
    nothing = "" if traits.empty_user else FILLER
    if traits.needs_user and not any(turn["role"] == "user" for turn in turns):
        turns = _with_user(turns)
    for turn in turns:
        role, last = turn["role"], groups[-1][-1] if groups else {"role": "system"}
        if role == "assistant" and not traits.empty_assistant and _empty(turn):
            continue
        in_a_row = {"user": traits.users_in_a_row, "assistant": traits.assistants_in_a_row}.get(role, True)
        if role == last["role"] and not (in_a_row or last.get("tool_calls") or turn.get("tool_calls")):
            groups[-1].append(turn)
        else:
            if role == "assistant" and last["role"] == "system" and not traits.assistant_first:
                groups.append([{"role": "user", "content": nothing}])
            elif role == "user" and last["role"] == "tool" and not traits.user_after_tool:
                groups.append([{"role": "assistant", "content": "" if traits.empty_assistant else FILLER}])
            groups.append([turn])
    result = [group[0] if len(group) == 1 else _merged(group) for group in groups]
    if not traits.empty_user:
        result = [{**turn, "content": FILLER} if turn["role"] == "user" and _empty(turn) else turn for turn in result]
    return result or [{"role": "user", "content": nothing}]


def _with_user(turns: Copies) -> Copies:
    """The same with a turn of the user: the last system turn if there is nothing else, else an empty one."""
    if turns and all(turn["role"] == "system" for turn in turns):
        return [*turns[:-1], {**turns[-1], "role": "user"}]
    first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    return [*turns[:first], {"role": "user", "content": ""}, *turns[first:]]


def _merged(turns: Objects) -> dict[str, Any]:
    """Turns of one role as one turn. Only the last one may hold calls."""
    merged: dict[str, Any] = {**turns[-1], "content": _joined([turn["content"] for turn in turns])}
    if thinking := _joined([turn.get("reasoning_content", "") for turn in turns]):
        merged["reasoning_content"] = thinking
    return merged


def _empty(turn: Mapping[str, Any]) -> bool:
    return not (turn["content"] or turn.get("tool_calls") or turn.get("reasoning_content"))


def _joined(texts: Sequence[str]) -> str:
    return "\n\n".join([text for text in texts if text])


def _shaped(turn: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    """One turn with its fields as the template reads them. Thinking stands before content, and calls behind it."""
    role, content, calls = turn["role"], turn["content"], turn.get("tool_calls")
    thinking = turn.get("reasoning_content")
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
    if "tool_responses" in turn:
        shaped["tool_responses"] = turn["tool_responses"]
    if role == "tool":
        shaped["tool_call_id"] = turn["tool_call_id"]
        if turn.get("name"):
            shaped["name"] = turn["name"]
    return shaped


def _shaped_call(call: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    function = call["function"]
    arguments = as_text(function["arguments"]) if traits.arguments == "text" else as_object(function["arguments"])
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": arguments}}
