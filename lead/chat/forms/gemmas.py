"""The grammar of Gemma's own form, which has quotes of its own around strings.

<|tool_call>call:f{x:<|"|>y<|"|>,place:{x:1}}<tool_call|>
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from duo.errors import RequestError
from duo.sampling.plain_schema import PARAM, referred
from lead.chat.conversation import Tool
from lead.chat.forms.literals import dumped, is_bare_key
from lead.chat.forms.rules import Rules, Writes
from lead.chat.forms.schemas import arguments_schema

MAX_PARTS = 20_000
"""Keys of objects, and schemas that describe them, as often as they are referred to."""
_COMPOUND = frozenset({"$ref", "allOf", "anyOf", "items", "oneOf", "properties"})
_NESTED = ("object", "array", None)
"""Types of which alternatives may say more."""
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_SCALARS = {"type": ["number", "boolean", "null"]}


def gemma(begin: str, end: str, quote: str) -> Writes:
    """Calls between marks. `quote`: what is around a string."""

    def write(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = []
        schemas = [arguments_schema(tool) for tool in tools]  # all of them stay: rules are known by their ids
        for tool, schema in zip(tools, schemas, strict=True):
            head = rules.text(f"{begin}call:{tool.name}{{")
            try:
                keys = _Values(rules, quote, schema).keys([schema])
            except RecursionError:
                raise RequestError("the JSON schema is too deep: simplify it", PARAM) from None
            calls.append(rules.rule(f"{head} {keys} {rules.text('}' + end)}"))
        return rules.several(rules.any_of(calls), "", parallel)

    return write


class _Values:
    """Writes rules of values by their schemas. `root`: the schema that references stand in."""

    def __init__(self, rules: Rules, quote: str, root: Mapping[str, Any]) -> None:
        self._rules, self._quote, self._root = rules, quote, root
        self._left = MAX_PARTS

    def value(self, schema: object) -> str:
        """The rule of a value."""
        if isinstance(schema, Mapping) and _COMPOUND & schema.keys():
            return self._rules.recursive(id(schema), lambda: self._of(schema))
        return self._of(schema)

    def keys(self, parts: Sequence[Mapping[str, Any]]) -> str:
        """The keys of an object that all these describe, with their values. None beside those that they name."""
        named, needed = dict[str, Any](), dict[str, None]()
        for part in parts:
            properties, required = part.get("properties"), part.get("required")
            named |= properties if isinstance(properties, Mapping) else {}
            needed |= dict.fromkeys(filter(_is_text, required)) if isinstance(required, list) else {}
        self._spend(len(named))
        items = [
            (self._rules.rule(f"{self._rules.text(f'{_key(key)}:')} {self.value(named.get(key))}"), key in needed)
            for key in dict.fromkeys([*named, *needed])
        ]
        return self._rules.listed(items, '","')

    def _of(self, schema: object) -> str:
        parts = list(self._parts(schema, set()))
        for part in parts:
            values = [part["const"]] if "const" in part else part.get("enum")
            if isinstance(values, list) and values and all(map(self._writable, values)):
                return self._any_of(map(self._written, values))
        given = next((part["type"] for part in parts if "type" in part), None)
        for part in parts:
            for alternatives in (part.get("anyOf"), part.get("oneOf")):
                if isinstance(alternatives, list) and given in _NESTED and not any("properties" in at for at in parts):
                    return self._any_of(map(self.value, alternatives))
        return self._any_of(self._of_type(each, parts) for each in (given if isinstance(given, list) else [given]))

    def _of_type(self, type: object, parts: Sequence[Mapping[str, Any]]) -> str:
        keywords = {key: value for part in parts for key, value in part.items()}
        if type == "object" or (type is None and "properties" in keywords):
            return self._rules.rule(f'"{{" {self.keys(parts)} "}}"')
        if type == "array" or (type is None and "items" in keywords):
            each = self.value(keywords.get("items"))
            return self._rules.rule(f'"[" ({each} ("," {each})*)? "]"')
        if type == "string":
            return self._rules.rule(self._text())
        if type in ("number", "integer", "boolean", "null"):
            return self._rules.json({"type": type, **{key: keywords[key] for key in _LIMITS if key in keywords}})
        return self._anything()

    def _parts(self, schema: object, seen: set[int]) -> Iterator[Mapping[str, Any]]:
        """The schemas that all describe the same value: this one, and those that it refers to."""
        if isinstance(schema, Mapping) and id(schema) not in seen:
            self._spend(1)
            seen.add(id(schema))
            yield schema
            if isinstance(reference := schema.get("$ref"), str):
                yield from self._parts(referred(reference, self._root), seen)
            for each in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
                yield from self._parts(each, seen)

    def _spend(self, parts: int) -> None:
        self._left -= parts
        if self._left < 0:
            raise RequestError(f"the JSON schema refers to more than {MAX_PARTS} parts: simplify it", PARAM)

    def _anything(self) -> str:
        return self._rules.rule(f"{self._text()} | {self._rules.json(_SCALARS)}")

    def _text(self) -> str:
        return f"{self._rules.text(self._quote)} {self._rules.until(self._quote)}"

    def _any_of(self, alternatives: Iterator[str]) -> str:
        return self._rules.any_of(list(dict.fromkeys(alternatives)))

    def _writable(self, value: object) -> bool:
        return self._quote not in value if isinstance(value, str) else not isinstance(value, list | Mapping)

    def _written(self, value: object) -> str:
        if isinstance(value, str):
            return self._rules.text(f"{self._quote}{value}{self._quote}")
        return self._rules.json({"const": value})


def _key(key: str) -> str:
    return key if is_bare_key(key) else dumped(key)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
