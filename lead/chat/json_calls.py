"""Finds calls of tools in the text of an answer, as the text comes.

Models write calls in a few ways, which `_MARKED` lists. All of them hold JSON with a name and arguments.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic_core import from_json

from lead.answers.text import overlap
from lead.api import FinishReason
from lead.chat.parts import Call

_MARKED: Sequence[tuple[str, str]] = (
    ("<tool_call>", "</tool_call>"),  # Nous Research's Hermes, Qwen and many others; and our own fallback
    ("[TOOL_CALLS]", ""),  # Mistral: a list, to the end of the answer
    ("<|python_tag|>", ""),  # Llama 3.1
)
"""How a call begins, and how it ends. An empty end is the end of the answer.

If a mark is a special token of the model, it is no text. Then the call is bare JSON, or in Mistral's newer form a name
and JSON."""

_NAMED = re.compile(r"(?:\[TOOL_CALLS\])?([\w.-]+)\s*(?:\[ARGS\]\s*(?=\{|\Z)|(?=\{))")
"""Mistral's newer form: a name, then the arguments."""

_BETWEEN = re.compile(r"(?:[\s;,\]]|\[(?!TOOL_CALLS\]))*")
"""What may stand before, between and after calls, as in a list of them."""

_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*')

_CALL_KEYS = frozenset({"id", "type", "function", "name", "arguments", "parameters"})

_KEYS = ('{"name":"', '{"type":"function"', '{"function":', '{"arguments":', '{"parameters":')
"""How bare JSON of a call begins, without white space."""


class CallParser:
    """Finds the calls in a text as it comes.

    Text that cannot be a part of a call comes out at once. The rest is held back until it is clear. What looks like a
    call of another tool is text.
    """

    def __init__(self, names: Sequence[str], parallel: bool = True, must_call: bool = False) -> None:
        """`names`: the tools. `parallel`: whether calls after the first one count. `must_call`: a grammar makes the
        whole text a call."""
        self._names = frozenset(names)
        self._names_of_calls = [name + after for name in names for after in ('{"', "{}", "[ARGS]")]
        """How calls in Mistral's newer form begin."""
        self._parallel, self._must_call = parallel, must_call
        self._calls = 0
        self._begun = self._after_call = False
        self.held = ""
        """The text that did not come out yet."""
        self.cut = False
        """Whether the answer ended within a call."""

    def push(self, text: str) -> tuple[str, list[Call]]:
        """Takes more text. Returns text that belongs to no call, and complete calls."""
        self.held += text
        return self._take(final=False)

    def flush(self, reason: FinishReason = "stop") -> tuple[str, list[Call]]:
        """Returns the rest at the end of the answer. `reason`: why the answer ended."""
        shown, calls = self._take(final=True, cut=reason == "length" or self._must_call)
        self.cut |= self._must_call and not (shown or self._calls)  # the answer ended before its first letter
        return shown, calls

    def finish_reason(self, reason: FinishReason) -> Literal["stop", "length", "tool_calls"]:
        """Why the answer ended, in OpenAI's words. `reason`: why its text ended.

        Only with "tool_calls" are the calls whole, and safe to carry out.
        """
        return "length" if self.cut else "tool_calls" if self._calls else reason

    def _take(self, final: bool, cut: bool = False) -> tuple[str, list[Call]]:
        shown, calls = "", list[Call]()
        while self.held:
            text, found, more = self._next(final, cut)
            shown += text
            calls += found
            if not more:
                break
        if not self._parallel:
            calls = calls[: max(0, 1 - self._calls)]
        self.cut = not all(call.whole for call in calls)
        calls = [call for call in calls if call.name]
        self._calls += len(calls)
        return shown, calls

    def _next(self, final: bool, cut: bool) -> tuple[str, list[Call], bool]:
        """The next text and calls, and whether the held text may give more."""
        if not self._begun:
            begin = self.held.lstrip()
            if not begin and not final:
                return "", [], False
            bare = self._bare(begin, final, cut)
            if bare is not None:
                return bare
            self._begun = True
        at, begin, end = min(
            ((self.held.find(begin), begin, end) for begin, end in _MARKED if begin in self.held),
            default=(-1, "", ""),
        )
        if at < 0:
            keep = 0 if final else max(overlap(self.held, begin) for begin, _ in _MARKED)
            text = self.held[: len(self.held) - keep]
            if self._after_call and not text.strip():
                # White space between calls belongs to neither.
                self.held = "" if final else self.held
                return "", [], False
            self._after_call, self.held = False, self.held[len(text) :]
            return text, [], False
        if at:
            text, self.held = self.held[:at], self.held[at:]
            return text if text.strip() else "", [], True  # as above
        close = _closing(self.held, end) if end else -1
        if close < 0 and not final:
            return "", [], False
        # If the closing mark is cut, the call before it is whole.
        stop = close if close >= 0 else len(self.held) - overlap(self.held, end or begin)
        calls = self._parsed(self.held[len(begin) : stop])
        if not calls and close < 0 and cut:
            calls = self._broken_off(self.held[len(begin) :])
        if not calls and end:
            close = self.held.find(end)  # this is no JSON, so the mark stands in no string
        whole = self.held[: close + len(end)] if close >= 0 else self.held
        self.held = self.held[len(whole) :]
        self._after_call = bool(calls)
        return ("", calls, True) if calls else (whole, [], True)

    def _bare(self, begin: str, final: bool, cut: bool) -> tuple[str, list[Call], bool] | None:
        """As `_next`, for a call without marks, which is the whole answer. None: this is no such call.

        `begin`: the held text from its first letter.
        """
        if self._must_call and not final:
            return "", [], False
        if not final:
            # Only text that may become a call is held back. Any other JSON streams.
            head = re.sub(r"\s", "", begin[:200])
            if any(key.startswith(head) or head.startswith(key) for key in self._names_of_calls):
                return "", [], False
            head = head.lstrip("[") if begin[0] in "{[" else head
            if any(key.startswith(head) or head.startswith(key) for key in _KEYS):
                return "", [], False
            return None
        calls = self._parsed(self.held) or (self._broken_off(self.held) if cut else [])
        # Without marks, only the name tells a call from other text.
        if not calls or not (calls[0].name or self._must_call):
            return None
        self.held = ""
        return "", calls, False

    def _parsed(self, text: str) -> list[Call]:
        """The calls of a text that holds nothing else; no calls if it holds anything else."""
        try:
            calls, rest = self._read(text)
        except (ValueError, RecursionError):
            return []
        return [] if rest else calls

    def _broken_off(self, text: str) -> list[Call]:
        """The calls of a text that ends within the last one of them."""
        try:
            calls, rest = self._read(text)
            return [*calls, self._begun_call(rest)]
        except (ValueError, RecursionError):
            return []

    def _begun_call(self, text: str) -> Call:
        """The call that the text begins and does not end. Raises ValueError if it begins none of these tools' calls."""
        named = _NAMED.match(text)
        if named:
            name, arguments = self._name({"name": named[1]}), text[named.end() :]
            from_json(arguments or "{", allow_partial=True)
        elif any(f"{name}[ARGS]".startswith(text.removeprefix("[TOOL_CALLS]")) for name in self._names):
            return Call("", "", "", whole=False)
        else:
            value = from_json(text, allow_partial=True)
            function = _function(value)
            if not value.keys() | function.keys() <= _CALL_KEYS:
                raise ValueError("other JSON, with a name")
            name = self._name(function) if "name" in function else ""
            found = _ARGUMENTS.search(text)
            arguments = _as_far(text[found.end() :]) if found else ""
        return Call(_new_id(), name, arguments, whole=False)

    def _read(self, text: str) -> tuple[list[Call], str]:
        """The calls at the beginning of a text, and the rest, which is no JSON.

        Raises ValueError for JSON that calls none of these tools, and RecursionError.
        """
        decoder, calls, at = json.JSONDecoder(), list[Call](), 0
        while (between := _BETWEEN.match(text, at)) and (at := between.end()) < len(text):
            named = _NAMED.match(text, at)
            try:
                value, end = decoder.raw_decode(text, named.end() if named else at)
            except ValueError:
                break
            calls.append(self._call({"name": named[1], "arguments": value} if named else value))
            at = end
        return calls, text[at:]

    def _call(self, value: Any) -> Call:
        """The call that this JSON is. Raises ValueError if it calls none of these tools, and RecursionError."""
        function = _function(value)
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "null")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise ValueError("the arguments of a call are an object")
        return Call(_new_id(), self._name(function), json.dumps(arguments, ensure_ascii=False, allow_nan=False))

    def _name(self, function: Mapping[str, Any]) -> str:
        name = function.get("name")
        if not isinstance(name, str) or name not in self._names:
            raise ValueError("no tool has this name")
        return name


def _function(value: Any) -> Mapping[str, Any]:
    """Name and arguments of a call, in whichever form. Raises ValueError if the value is no object."""
    match value:
        case {"function": dict(function)}:
            return function
        case {"function": str(name)}:
            return {"name": name, **value}
        case dict():
            return value
    raise ValueError("a call is an object")


def _as_far(arguments: str) -> str:
    """The arguments at the beginning of a text, which may end within them."""
    if arguments.startswith('"'):
        return str(from_json(arguments, allow_partial="trailing-strings"))
    if not arguments.startswith("{"):
        return ""
    try:
        return arguments[: json.JSONDecoder().raw_decode(arguments)[1]]
    except ValueError:
        return arguments


def _new_id() -> str:
    """Nine letters and digits: Mistral's templates accept nothing else."""
    return secrets.token_hex(5)[:9]


def _closing(text: str, mark: str) -> int:
    """Where the mark stands that ends a call, or -1. Marks inside strings do not count."""
    if mark in text:
        for found in re.finditer(rf'"(?:[^"\\\x00-\x1f]|\\.)*+"?|{re.escape(mark)}', text):
            if found[0] == mark:
                return found.start()
    return -1
