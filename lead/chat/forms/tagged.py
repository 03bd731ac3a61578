"""Calls within tags: JSON, or a name and values as bare text, which the tool's schema gives types.

Hermes: `<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>`.
Qwen3-Coder: `<tool_call><function=f><parameter=x>1</parameter></function></tool_call>`.
GLM 4.5: `<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>`.
MiniMax: `<minimax:tool_call><invoke name="f"><parameter name="x">1</parameter></invoke></minimax:tool_call>`.
DeepSeek V3.2: the same with `<｜DSML｜function_calls>`, and with `string="false"` where a value is JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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
                yield from function(source, found, _BEGINS[begin], (begin, end))
                mark = yield from names.close(source, [begin, end])
        else:
            yield from function(source, found, GLM)

    return read


def alone(end: str, tags: Tags = QWEN) -> Reader:
    """A reader of what follows `<function=` where the tag around it was forgotten. `end`: what may still close it."""

    def read(source: Source, found: Found) -> Reading[None]:
        yield from function(source, found, tags, tuple(filter(None, (tags.name[0], end))))
        names.certain(source, found)
        yield from source.spaces()
        try:
            here, _ = yield from source.one_of([end])
        except Ended:
            return
        if not here:
            source.rewind()

    return read


def function(source: Source, found: Found, tags: Tags, after: Sequence[str] = ()) -> Reading[None]:
    """Reads a function after `tags.name[0]`, and its end. `after`: marks that may follow it."""
    name = yield from names.tool(source, found)
    values = _Values(tags, found.tools[name].parameters, after)
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
    """Keys and values of a function, as they are read. `parameters`: their schema. `after`: marks that may follow the
    end of the function."""

    def __init__(self, tags: Tags, parameters: Mapping[str, Any] | None, after: Sequence[str]) -> None:
        self._tags, self._parameters, self._after = tags, parameters, after
        properties = (parameters or {}).get("properties")
        self._known = [key for key in properties if tags.key[1] not in key] if isinstance(properties, Mapping) else []
        """The keys that the schema names."""
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
        next_key = ""
        while mark == tags.key[0]:
            if not next_key:
                key: list[str] = []
                yield from source.until(tags.key[1], key)
                next_key = self._named("".join(key))
            if tags.kinds:
                here, kind = yield from source.one_of(tags.kinds.values())
                if not here:
                    raise NoCall
                self._string = kind == tags.kinds[True]
            elif tags.value[0]:
                yield from source.spaces()
                yield from source.expect(tags.value[0])
            self._key, self._pieces, self._closed, next_key = next_key, [], False, ""
            mark = ""
            while not mark:
                mark, next_key = yield from self._until(source)
                if mark:
                    break
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

    def _until(self, source: Source) -> Reading[tuple[str, str]]:
        """Reads a value, and its closing mark. Where the model has forgotten it, a line ends the value that begins with
        a key that has not come yet, or with the end of the function. Returns this mark, and the key."""
        tags, plain = self._tags, re.compile(f"[^{re.escape(self._tags.value[1][0])}]*+")
        keys = {f"{tags.key[0]}{key}{tags.key[1]}": key for key in self._known if key not in {*self.done, self._key}}
        others = [*keys, *([tags.end] if self._after else [])]
        while True:
            yield from source.long_run(plain, self._pieces)
            begins = next((piece for piece in reversed(self._pieces) if piece), "").endswith("\n")
            here, mark = yield from source.one_of([tags.value[1], *(others if begins else ())])
            if here and mark in keys:
                return tags.key[0], keys[mark]
            if here and mark == tags.value[1]:
                return "", ""
            if here and (yield from self._ends(source)):
                return tags.end, ""
            self._pieces.append(mark)

    def _ends(self, source: Source) -> Reading[bool]:
        """Whether what follows the end of the function shows that it was no part of a value. It stays unread."""
        place = source.place
        try:
            yield from source.spaces()
            here = not (yield from source.peek()) or (yield from source.one_of(self._after))[0]
        except Ended:
            here = True
        source.rewind(place)
        return here

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
