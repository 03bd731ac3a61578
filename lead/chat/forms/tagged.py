"""Calls within tags: JSON, or a name and values as bare text, which the tool's schema gives types.

Hermes: `<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>`.
Qwen3-Coder: `<tool_call><function=f><parameter=x>1</parameter></function></tool_call>`.
GLM 4.5: `<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>`.
MiniMax: `<minimax:tool_call><invoke name="f"><parameter name="x">1</parameter></invoke></minimax:tool_call>`.
DeepSeek V3.2: the same with `<｜DSML｜function_calls>`, and with `string="false"` where a value is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lead.chat.forms import jsons, names
from lead.chat.forms.allowed import allowed
from lead.chat.forms.found import Found, Reader
from lead.chat.forms.literals import JSON, value
from lead.chat.forms.source import CutCall, Ended, NoCall, Reading, Source
from lead.chat.forms.typed import may_be_text, schema_of, told, typed


@dataclass(frozen=True)
class Tags:
    """What stands around the name of a function, a key and a value, and what ends the function.

    padded: a line break on either side of a value is not a part of it. kinds: what stands between key and value, and
    tells whether the value is a string.
    """

    name: tuple[str, str]
    key: tuple[str, str]
    value: tuple[str, str]
    end: str
    padded: bool = False
    kinds: Mapping[bool, str] = field(default_factory=dict)


QWEN = Tags(("<function=", ">"), ("<parameter=", ">"), ("", "</parameter>"), "</function>", padded=True)
INVOKE = Tags(('<invoke name="', '">'), ('<parameter name="', '">'), ("", "</parameter>"), "</invoke>")
DSML = Tags(
    ('<｜DSML｜invoke name="', '">'),
    ('<｜DSML｜parameter name="', '"'),
    ("", "</｜DSML｜parameter>"),
    "</｜DSML｜invoke>",
    kinds={True: ' string="true">', False: ' string="false">'},
)
GLM = Tags(("", ""), ("<arg_key>", "</arg_key>"), ("<arg_value>", "</arg_value>"), "</tool_call>")
_BEGINS = {tags.name[0]: tags for tags in (QWEN, INVOKE, DSML)}


def within(end: str) -> Reader:
    """A reader of what follows `<tool_call>`, whichever of these forms it has. `end`: what closes it."""

    def read(source: Source, found: Found) -> Reading[None]:
        yield from source.spaces()
        letter = yield from source.more()
        if letter in "{[":
            while letter and letter in "{[":
                yield from jsons.calls(source, found)
                yield from source.spaces()
                letter = yield from source.peek()
            yield from names.close(source, [end])
        elif letter == "<":
            here, begin = yield from source.one_of(_BEGINS)
            if not here:
                raise NoCall
            mark = begin
            while mark == begin:
                yield from function(source, found, _BEGINS[begin])
                mark = yield from names.close(source, [begin, end])
        else:
            yield from function(source, found, GLM)

    return read


def alone(end: str, tags: Tags = QWEN) -> Reader:
    """A reader of what follows `<function=` where the tag around it was forgotten. `end`: what may still close it."""

    def read(source: Source, found: Found) -> Reading[None]:
        yield from function(source, found, tags)
        names.certain(source, found)
        yield from source.spaces()
        try:
            here, _ = yield from source.one_of([end])
        except Ended:
            return
        if not here:
            source.rewind()

    return read


def function(source: Source, found: Found, tags: Tags) -> Reading[None]:
    """Reads a function after `tags.name[0]`, and its end."""
    name = yield from names.tool(source, found)
    values = _Values(tags, found.tools[name].parameters)
    try:
        yield from source.expect(tags.name[1])
        yield from source.spaces()
        if tags is QWEN and (yield from source.more()) == "{":
            yield from _json(source, found, name, tags)
            return
        yield from values.read(source, found)
    except Ended:
        raise CutCall(name, values.so_far()) from None
    found.call(name, values.done)


def _json(source: Source, found: Found, name: str, tags: Tags) -> Reading[None]:
    """Reads arguments as JSON, in the function's tags. Llama 3.1 knows this form, too."""
    place = source.place
    try:
        arguments = yield from value(source, JSON)
    except Ended:
        raise CutCall(name, source.since(place)) from None
    yield from names.close(source, [tags.end])
    found.call(name, arguments)


class _Values:
    """Keys and values of a function, as they are read. `parameters`: their schema."""

    def __init__(self, tags: Tags, parameters: Mapping[str, Any] | None) -> None:
        self._tags, self._parameters = tags, parameters
        self.done: dict[str, Any] = {}
        self._key = ""
        self._string: bool | None = None
        """Whether the value is a string, if the model tells it."""
        self._pieces: list[str] = []
        """The value of the key."""
        self._closed = False
        """Whether it is whole."""

    def read(self, source: Source, found: Found) -> Reading[None]:
        """Reads them all, and the end of the function."""
        tags = self._tags
        ends = [tags.key[0], tags.end]
        here, mark = yield from source.one_of(ends)
        if not here:
            raise NoCall
        while mark == tags.key[0]:
            key: list[str] = []
            yield from source.until(tags.key[1], key)
            if tags.kinds:
                here, kind = yield from source.one_of(tags.kinds.values())
                if not here:
                    raise NoCall
                self._string = kind == tags.kinds[True]
            elif tags.value[0]:
                yield from source.spaces()
                yield from source.expect(tags.value[0])
            self._key, self._pieces, self._closed = self._named("".join(key)), [], False
            mark = ""
            while not mark:
                yield from source.until(tags.value[1], self._pieces)
                self._closed = True
                space = yield from source.spaces()
                try:
                    here, mark = yield from source.one_of(ends)
                except Ended:
                    if found.cut_counts:
                        raise
                    here, mark = True, tags.end  # the model ended it without its last mark
                if not here:
                    # The value has its own closing mark in it.
                    self._pieces.append(tags.value[1] + space + mark)
                    mark, self._closed = "", False
            self.done[self._key] = self._value()
            self._key = ""

    def so_far(self) -> str:
        """The beginning of the arguments as JSON."""
        values = dict(self.done)
        schema = schema_of(self._parameters, self._key)
        text = may_be_text(schema) if self._string else self._string is None and allowed(schema).types == {"string"}
        if self._key and self._closed:
            values[self._key] = self._value()
        elif self._key and text:
            values[self._key] = self._text()
            return json.dumps(values, ensure_ascii=False)[:-2]
        return json.dumps(values, ensure_ascii=False)[:-1]

    def _named(self, written: str) -> str:
        """The key that was written. White space around it is a part of it only if the schema says so."""
        properties = (self._parameters or {}).get("properties")
        known = isinstance(properties, Mapping) and written in properties
        return written if known else written.strip()

    def _text(self) -> str:
        text = "".join(self._pieces)
        return text.removeprefix("\n").removesuffix("\n") if self._tags.padded else text

    def _value(self) -> Any:
        schema = schema_of(self._parameters, self._key)
        return typed(self._text(), schema) if self._string is None else told(self._text(), schema, self._string)
