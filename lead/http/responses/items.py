"""The items of a Responses request, and the conversation that they are.

An item is a message, a call, the output of a call, or thinking. Chat templates know turns instead: an assistant's turn
holds its thinking, its text and its calls together.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo

from duo.errors import RequestError
from lead.http import past
from lead.http.errors import dump
from lead.http.openai.messages import Text, TextPart, joined
from lead.http.parsing import Body, checked, short
from lead.http.responses.tools import ToolEntry, entries, prompt_name

MAX_ITEMS = 10_000
"""Most items of one request."""
_SEALED = "duo."
"""How the `encrypted_content` of our own thinking begins. It is packed, and not secret."""


class MessageItem(Body):
    """A turn of the user, of the assistant, or of whoever instructs it. `type` may be absent.

    `status`: an answer goes on with the last item if that is the assistant's and is not completed.
    """

    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Text


class FunctionCall(Body):
    """A call that the assistant made. `arguments` are JSON; an object is taken too."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: str | None = None
    name: str
    namespace: str | None = None
    arguments: str | dict[str, Any] | None = None

    def told(self) -> tuple[str, str]:
        """Name and arguments, as they stand in a prompt."""
        given = self.arguments
        return prompt_name(self.name, self.namespace), given if isinstance(given, str) else dump(given or {})


class CustomCall(Body):
    """A call of a tool whose input is text."""

    type: Literal["custom_tool_call"]
    id: str | None = None
    call_id: str | None = None
    name: str
    namespace: str | None = None
    input: str

    def told(self) -> tuple[str, str]:
        return prompt_name(self.name, self.namespace), dump({"input": self.input})


class HostedCall(Body):
    """A call of one of OpenAI's own tools that the client carried out, from a conversation with OpenAI."""

    type: Literal["local_shell_call", "shell_call", "apply_patch_call", "computer_call"]
    id: str | None = None
    call_id: str | None = None
    action: dict[str, Any] | None = None
    actions: list[dict[str, Any]] | None = None
    operation: dict[str, Any] | None = None

    def told(self) -> tuple[str, str]:
        several = {"actions": self.actions} if self.actions else {}
        return self.type.removesuffix("_call"), dump(self.action or self.operation or several)


def _of_shell(output: object, info: ValidationInfo) -> object:
    """Makes text of a shell's output, which is a list of what each command wrote. A computer's is one part."""
    match output:
        case {"type": "computer_screenshot"}:
            output = [output]
        case [{"stdout": str()}, *_]:
            return dump(output)
        case None:
            return ""
    return joined(output, info)


class Output(Body):
    """What a call gave back."""

    type: Literal[
        "function_call_output", "custom_tool_call_output", "local_shell_call_output", "shell_call_output",
        "apply_patch_call_output", "computer_call_output",
    ]  # fmt: skip
    id: str | None = None
    call_id: str | None = None
    output: Annotated[str, BeforeValidator(_of_shell, json_schema_input_type=str | list[TextPart])] = ""


class ReasoningText(Body):
    type: str | None = None
    text: str


class Reasoning(Body):
    """What the assistant thought: as it wrote it, or a summary."""

    type: Literal["reasoning"]
    id: str | None = None
    status: str | None = None
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None

    @property
    def text(self) -> str:
        """The best that is there. Content that another server encrypted cannot be read."""
        for parts in (self.content, self.summary):
            if text := "\n".join(part.text for part in parts or ()):
                return text
        return unsealed(self.encrypted_content or "")


class Reference(Body):
    """An item of an earlier response that the lead remembers."""

    type: Literal["item_reference"]
    id: str


class MoreTools(Body):
    """Tools beside those of the request."""

    type: Literal["additional_tools"]
    id: str | None = None
    tools: list[dict[str, Any]]

    def entries(self) -> Sequence[ToolEntry]:
        return entries(self.tools, "input.tools")


Item = MessageItem | FunctionCall | CustomCall | HostedCall | Output | Reasoning | Reference | MoreTools

_SHAPES: Mapping[str, type[Item]] = {
    "message": MessageItem,
    "function_call": FunctionCall,
    "custom_tool_call": CustomCall,
    "local_shell_call": HostedCall,
    "shell_call": HostedCall,
    "apply_patch_call": HostedCall,
    "computer_call": HostedCall,
    "function_call_output": Output,
    "custom_tool_call_output": Output,
    "local_shell_call_output": Output,
    "shell_call_output": Output,
    "apply_patch_call_output": Output,
    "computer_call_output": Output,
    "reasoning": Reasoning,
    "item_reference": Reference,
    "additional_tools": MoreTools,
}

_SKIPPED = frozenset(
    {
        "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "tool_search_call",
        "tool_search_output", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call", "program",
        "program_output", "compaction_trigger",
    }
)  # fmt: skip
"""What OpenAI's own tools did. A conversation that began there goes on without it."""

_UNREADABLE: Mapping[str, str] = {"compaction": "only the server that encrypted it can read it"}


def items_of(given: object) -> Sequence[Item]:
    """The items of an `input`. Raises RequestError that names the place, and ValueError if it is neither form."""
    if isinstance(given, str):
        return [MessageItem(role="user", content=given)]
    if not isinstance(given, list):
        raise ValueError(f"{short(given)} is neither a text nor a list of items")
    if len(given) > MAX_ITEMS:
        raise ValueError(f"{len(given)} items are too many: at most {MAX_ITEMS} are taken")
    found = [_item(value, f"input[{i}]") for i, value in enumerate(past.in_items(given))]
    return [item for item in found if item is not None]


def _item(value: object, where: str) -> Item | None:
    """The item; None if it says nothing to the model."""
    if not isinstance(value, dict):
        raise RequestError(f"{where} is {short(value)}: an item is an object", where)
    kind = value.get("type")
    if kind is None:
        # Clients leave the type out where the other fields tell it.
        kind = "item_reference" if "role" not in value and "id" in value else "message"
    name = kind if isinstance(kind, str) else ""
    if name in _SKIPPED:
        return None
    shape = _SHAPES.get(name)
    if shape is None:
        why = _UNREADABLE.get(name, "the lead knows no such item")
        raise RequestError(f"{where}.type is {short(kind)}: {why}", f"{where}.type")
    return checked(shape, {**value, "type": kind}, where)


class _Assistant:
    """A turn of the assistant that still grows."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def turn(self) -> dict[str, Any]:
        """The turn in OpenAI's chat shape."""
        turn: dict[str, Any] = {"role": "assistant", "content": "\n".join(self.texts)}
        if self.thoughts:
            turn["reasoning_content"] = "\n".join(self.thoughts)
        return {**turn, "tool_calls": self.calls} if self.calls else turn


def messages_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The conversation in OpenAI's chat shape. What the assistant says in a row becomes one turn."""
    turns: list[dict[str, Any] | _Assistant] = []
    names: dict[str, str] = {}
    for item in items:
        match item:
            case MessageItem(role="assistant"):
                _assistant(turns).texts.extend([item.content] if item.content else [])
            case MessageItem():
                # "developer" is OpenAI's newer word for system. Chat templates do not know it.
                role = "system" if item.role == "developer" else item.role
                turns.append({"role": role, "content": item.content})
            case Reasoning():
                if text := item.text:
                    _assistant(turns).thoughts.append(text)
            case FunctionCall() | CustomCall() | HostedCall():
                name, arguments = item.told()
                call_id = item.call_id or item.id
                names[call_id or ""] = name
                call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                _assistant(turns, call=True).calls.append(call)
            case Output():
                turns.append(_answer(item, names))
            case Reference() | MoreTools():
                pass  # the first is replaced before, the second is no turn
    return [turn.turn() if isinstance(turn, _Assistant) else turn for turn in turns]


def unfinished(items: Sequence[Item]) -> bool:
    """Whether the last item is one of the assistant's that a limit has cut. As in vLLM, the answer then goes on with
    it."""
    match items[-1] if items else None:
        case MessageItem(role="assistant", status=status) | Reasoning(status=status):
            return status in ("in_progress", "incomplete")
    return False


def _assistant(turns: list[dict[str, Any] | _Assistant], call: bool = False) -> _Assistant:
    """The assistant's turn that goes on, or a new one.

    Text after text is a new turn, unless a call was between: its output has to follow its turn.
    """
    last = turns[-1] if turns else None
    if isinstance(last, _Assistant) and (call or last.calls or not last.texts):
        return last
    turns.append(made := _Assistant())
    return made


def _answer(item: Output, names: Mapping[str, str]) -> dict[str, Any]:
    """The turn of a tool. Some templates want the tool's name in it."""
    turn: dict[str, Any] = {"role": "tool", "content": item.output}
    call_id = item.call_id or item.id
    if call_id is not None:
        turn["tool_call_id"] = call_id
        if call_id in names:
            turn["name"] = names[call_id]
    return turn


def sealed(thinking: str) -> str:
    """Thinking as `encrypted_content`, for clients that keep nothing else of it."""
    return _SEALED + base64.urlsafe_b64encode(thinking.encode()).decode()


def unsealed(content: str) -> str:
    """The thinking in an `encrypted_content` of ours; empty if another server made it."""
    if not content.startswith(_SEALED):
        return ""
    try:
        return base64.b64decode(content.removeprefix(_SEALED), altchars=b"-_", validate=True).decode()
    except ValueError:  # no base64, or no text in it
        return ""
