"""Grammars from JSON schemas and regular expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import Any

from duo.errors import RequestError
from duo.sampling.params import Constraint as Constraint

MAX_PATTERNS = 512
"""Characters of all patterns of a schema: a few thousand of the wrong ones would take seconds and gigabytes."""

MAX_REFERENCES = 256
"""References of a schema: a chain of more than a thousand would overflow the stack."""

MAX_INTERSECTIONS = 8
"""Members of all `allOf` of a schema: patterns that hold together can take exponential time."""

# Else llguidance would prescribe how to cut up text that the grammar leaves no choice about, by a tokenizer that both
# runtimes would have to agree on. This way every cut is allowed, and the model takes the one that it knows.
_HEADER = '%llguidance {"no_forcing": true}\n'

_OPTIONS = {"whitespace_flexible": False}
"""Compact JSON: small models ramble where they may add white space."""

_FORMATS = (
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid",
)  # fmt: skip
"""Formats of strings that llguidance knows."""

_SCHEMAS = frozenset({"additionalProperties", "allOf", "anyOf", "items", "oneOf", "prefixItems"})
"""Keywords whose value is a schema, or a list of schemas."""

_OF_SCHEMAS = frozenset({"$defs", "definitions", "patternProperties", "properties"})
"""Keywords whose value has schemas by name."""

_PARAM = "response_format"


def of_json_schema(schema: Mapping[str, Any]) -> str:
    """The grammar of compact JSON that the schema accepts. Raises RequestError if the schema is too complex, or not
    JSON; whether every keyword in it is understood is for `Grammars.check` to say."""
    return f"{_HEADER}start: {json_rule(schema)}\n"


def of_json_object() -> str:
    """The grammar of any JSON object, compact."""
    return of_json_schema({"type": "object"})


def of_lark(text: str) -> str:
    """The grammar of a text in llguidance's dialect of Lark, with a rule `start`. It is for texts of our own: schemas
    in it are to be written by `json_rule`."""
    return _HEADER + text


def of_regex(text: str) -> str:
    """The grammar of a regular expression in Rust's syntax that matches the whole answer. Raises RequestError if it is
    too long."""
    if len(text) > MAX_PATTERNS:
        raise RequestError(f"the pattern has {len(text)} characters, at most {MAX_PATTERNS} are allowed", _PARAM)
    # A slash would end it in Lark, where it cannot go over several lines either.
    pattern = re.sub(r"\\.|/|\n", lambda found: {"/": r"\/", "\n": r"\n"}.get(found[0], found[0]), text)
    return f"{_HEADER}start: /{pattern}/\n"


def json_rule(schema: Mapping[str, Any]) -> str:
    """A schema as a part of a Lark grammar, compact JSON. Raises RequestError as `of_json_schema` does."""
    try:
        schema = _without_hints(schema)
        text = json.dumps({**schema, "x-guidance": _OPTIONS}, allow_nan=False)
        patterns = references = intersections = 0
        for key, value in _members(schema):
            patterns += len(value) if key == "pattern" and isinstance(value, str) else 0
            patterns += sum(map(len, value)) if key == "patternProperties" and isinstance(value, dict) else 0
            references += key in ("$ref", "$dynamicRef", "$recursiveRef")
            intersections += len(value) if key == "allOf" and isinstance(value, list) else 0
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the JSON schema is not JSON: {_line(str(error))}", _PARAM) from None
    for number, most, what in (
        (patterns, MAX_PATTERNS, "characters in its patterns"),
        (references, MAX_REFERENCES, "references"),
        (intersections, MAX_INTERSECTIONS, "members of allOf"),
    ):
        if number > most:
            raise RequestError(f"the JSON schema has {number} {what}, at most {most} are allowed: simplify it", _PARAM)
    return f"%json {text}"


def _without_hints(schema: Any) -> Any:
    """The same schema without what asks for nothing and llguidance would refuse: formats that it does not know, which
    JSON Schema takes for annotations, and `uniqueItems` where they need not be unique."""
    if not isinstance(schema, Mapping):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if (key == "format" and value not in _FORMATS) or (key == "uniqueItems" and value is False):
            continue
        if key in _OF_SCHEMAS and isinstance(value, Mapping):
            value = {name: _without_hints(inner) for name, inner in value.items()}
        elif key in _SCHEMAS and isinstance(value, list):
            value = [_without_hints(inner) for inner in value]
        elif key in _SCHEMAS:
            value = _without_hints(value)
        plain[key] = value
    return plain


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            yield from _members(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _members(inner)


def _line(message: str) -> str:
    """An error of llguidance's without the text of the grammar that it quotes, on one line."""
    said = re.split(r"\n\s*\d+ \||\n<|\. Enable ", message)[0].replace("NoExtensionBias", "it allows no text at all")
    said = re.sub(r"^(at )?\d+\(\d+\): |^failed to compile JSON schema: ", "", said)
    return shorten(said.removeprefix("failed to compile JSON schema: "), 200, placeholder=" ...") or "it is not valid"
