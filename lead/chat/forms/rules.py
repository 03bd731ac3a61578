"""Rules of a grammar for calls, in llguidance's dialect of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from duo.sampling.json_schema import json_rule
from lead.chat.conversation import Tool
from lead.chat.forms.allowed import Allowed, allowed
from lead.chat.forms.schemas import arguments_schema, moved
from lead.chat.forms.typed import schema_of

MAX_CALLS = 16
"""Calls in one answer. Small models would go on for ever."""
MAX_EXTRA = 32
"""Keys that a schema does not name, where it allows them and they are no JSON."""
_WORDS = (True, False, None)
"""Values that Python writes in words of its own."""
_NO_OTHERS = {"additionalProperties": False}

Values = Callable[["Rules", Mapping[str, Any]], str]
"""Writes the rule of a value by its schema. Returns the rule's name, or another expression."""

Writes = Callable[["Rules", Sequence[Tool], bool], str]
"""Writes the rules of calls. Returns an expression for them. Its last argument: whether there may be several."""


class Member(NamedTuple):
    """A key that a call may have, its schema, and whether the call must have it."""

    key: str
    schema: Mapping[str, Any]
    required: bool


class Rules:
    """Rules of one grammar. `marks`: special tokens by id. A grammar has their numbers in place of their names."""

    def __init__(self, marks: Mapping[int, str]) -> None:
        self._tokens = {mark: token for token, mark in marks.items()}
        names = sorted(map(re.escape, self._tokens), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(names)})") if names else None
        self._rules: dict[tuple[str, str], str] = {}
        """Names of rules by their attribute and by what they say."""
        self._recursive: dict[int, list[str]] = {}
        """Rules that may contain themselves, by what they are known by: their names and what they say."""

    def __str__(self) -> str:
        plain = [f"{name}{attribute}: {says}\n" for (attribute, says), name in self._rules.items()]
        return "".join([*plain, *(f"{name}: {says}\n" for name, says in self._recursive.values())])

    def rule(self, says: str, attribute: str = "") -> str:
        """The name of a rule, which may have an attribute of llguidance."""
        return self._rules.setdefault((attribute, says), f"r{len(self._rules)}")

    def recursive(self, key: int, says: Callable[[], str]) -> str:
        """The name of a rule that may contain itself. It is written once for each key."""
        if key not in self._recursive:
            rule = self._recursive[key] = [f"s{len(self._recursive)}", ""]
            rule[1] = says()
        return self._recursive[key][0]

    def text(self, text: str) -> str:
        """An expression for a text, in which marks may stand."""
        parts = self._split.split(text) if self._split else [text]
        return " ".join(
            f"<[{self._tokens[part]}]>" if part in self._tokens else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )

    def until(self, mark: str) -> str:
        """An expression for any text, and the mark that ends it."""
        if self._split and (token := self._split.search(mark)):
            # No text holds the token. So this text is as long as it can be, and what stands before the token ends it.
            return f"/(?s:.*){_escaped(mark[: token.start()])}/ {self.text(mark[token.start() :])}"
        return self.rule(rf"/(?s:.*){_escaped(mark)}/", "[lazy]")

    def json(self, schema: Mapping[str, Any]) -> str:
        """A rule for JSON of this schema, with or without a space after commas and colons, as models write it."""
        return self.rule(json_rule(schema, spaced=True))

    def any_of(self, alternatives: Sequence[str]) -> str:
        return alternatives[0] if len(alternatives) == 1 else self.rule(" | ".join(alternatives))

    def several(self, one: str, between: str, parallel: bool) -> str:
        """One, or where they may be parallel several with something between them."""
        return f"{one} ({between} {one}){{0,{MAX_CALLS - 1}}}" if parallel else one

    def listed(self, items: Sequence[tuple[str, bool]], comma: str) -> str:
        """Items with commas, of which some must be there. Empty if there are none."""
        head = tail = ""
        for item, required in reversed(items):
            after = f"{item} {tail}".strip()
            if required:
                head, tail = after, f"{comma} {after}"
            else:
                head = f"({after} | {head})" if head else f"({after})?"
                tail = f"({comma} {item})? {tail}".strip()
            head, tail = (self.rule(each) if each else "" for each in (head, tail))
        return head

    def object_(self, tool: Tool, keys: tuple[str, str] = ("name", "arguments"), first: str = "") -> str:
        """A call as JSON, in which marks before it tell that it is one. `first`: what stands before its keys."""
        name, given = (json.dumps(f'"{key}":') for key in keys)
        head = f'"{{" {first} {name} " "? {self.text(json.dumps(tool.name))} "," " "? {given} " "?'
        return self.rule(f'{head} {arguments(self, tool)} "}}"')


def wholes(rules: Rules, tools: Sequence[Tool], key: str) -> str:
    """Calls as JSON without marks, with their arguments under this key. The answer may be other JSON instead, so all of
    it is a schema: a text cannot stand beside one that begins like it."""
    alternatives = []
    for i, tool in enumerate(tools):
        arguments = moved(arguments_schema(tool), f"#/anyOf/{i}/properties/{key}")
        properties = {"name": {"const": tool.name}, key: arguments}
        alternatives.append({"type": "object", "properties": properties, "required": ["name", key], **_NO_OTHERS})
    return rules.json({"anyOf": alternatives})


def arguments(rules: Rules, tool: Tool) -> str:
    """The arguments of a call as JSON."""
    return rules.json(arguments_schema(tool))


def _escaped(text: str) -> str:
    """The text in a regular expression between slashes."""
    return re.sub(r"([\\^$.|?*+()\[\]{}/])", r"\\\1", text).replace("\n", "\\n")


def members(tool: Tool) -> tuple[Sequence[Member], bool]:
    """The keys of a tool's arguments, and whether there may be others. Only what the schema says in a simple way."""
    schema = arguments_schema(tool)
    properties = schema.get("properties")
    named = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    needed = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
    keys = dict.fromkeys([*named, *needed])
    found = [Member(key, schema_of(schema, key), key in needed) for key in keys]
    return found, schema.get("additionalProperties", True) is not False


def bare(end: str, padded: bool) -> Values:
    """Values as bare text up to a mark, which belongs to them. `padded`: line breaks may stand around them."""

    def around(text: str, written: str) -> str:
        if not padded:
            return written
        # Its own line breaks would be taken for those around it.
        before, after = ('"\\n"' if text[at : at + 1] == "\n" else '"\\n"?' for at in (0, len(text) - 1))
        return f"{before} {written} {after}"

    def write(rules: Rules, schema: Mapping[str, Any]) -> str:
        can = allowed(schema)
        if can.strings is None:
            return rules.until(end)
        values = [around(text, rules.text(text) or '""') for text in can.strings]
        if not values or can.types != {"string"}:
            values.append(around("", rules.json(_no_string(schema, can))))
        return rules.rule(f"({' | '.join(values)}) {rules.text(end)}")

    return write


def told(end: str, kinds: Mapping[bool, str]) -> Values:
    """Values up to a mark, after the words that tell whether they are bare text or JSON."""
    texts = bare(end, padded=False)

    def write(rules: Rules, schema: Mapping[str, Any]) -> str:
        can = allowed(schema)
        alternatives = []
        if "string" in can.types:
            strings = {"type": "string"} if can.strings is None else {"enum": can.strings}
            alternatives.append(f"{rules.text(kinds[True])} {texts(rules, strings)}")
        if can.types != {"string"}:
            others = rules.json(_no_string(schema, can))
            alternatives.append(f"{rules.text(kinds[False])} {others} {rules.text(end)}")
        return rules.any_of(alternatives)

    return write


def _no_string(schema: Mapping[str, Any], can: Allowed) -> Mapping[str, Any]:
    """The schema for values that are no strings."""
    return {**schema, "type": sorted(can.types - {"string"})} if "string" in can.types else schema


def literal(rules: Rules, schema: Mapping[str, Any]) -> str:
    """Values as Python writes them. Strings are JSON, which is the same here."""
    can = allowed(schema)
    words = [rules.text(str(word)) for word in _WORDS if can.takes(word)]
    return rules.any_of(words if words and can.types <= {"boolean", "null"} else [*words, rules.json(schema)])
