"""Grammars from JSON schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import Any

from duo.errors import RequestError
from duo.sampling.plain_schema import PARAM, plain

MAX_PATTERNS = 512
"""Characters in all patterns of a schema. A few thousand of the wrong ones would take seconds and gigabytes."""

MAX_REFERENCES = 256
"""References in a schema. A chain of more than a thousand would overflow the stack."""

MAX_INTERSECTIONS = 8
"""Members of all `allOf` in a schema. Patterns that must hold at once can take exponential time."""

# Otherwise llguidance would choose the tokens of a prescribed text, and both runtimes would have to agree with it. This
# way all tokenizations are allowed, and the model takes the one that it knows.
_HEADER = '%llguidance {"no_forcing": true}\n'

_OPTIONS = {"whitespace_flexible": False}
"""Compact JSON: small models ramble when they may add white space."""

_SPACED = {"item_separator": ", ?", "key_separator": ": ?"}


def of_json_schema(schema: Mapping[str, Any]) -> str:
    """The grammar of compact JSON that the schema accepts.

    Raises RequestError if the schema is too complex or not JSON. `Grammars.check` finds unsupported keywords.
    """
    return f"{_HEADER}start: {json_rule(schema)}\n"


def of_json_object() -> str:
    """The grammar of any JSON object, compact."""
    return of_json_schema({"type": "object"})


def of_lark(text: str) -> str:
    """The grammar of a text of ours in llguidance's dialect of Lark, with a rule `start`. Write schemas in it with
    `json_rule`."""
    return _HEADER + text


def json_rule(schema: Mapping[str, Any], spaced: bool = False) -> str:
    """A schema as a part of a Lark grammar, compact JSON. Raises RequestError as `of_json_schema` does.

    spaced: a space may follow commas and colons, as models write calls.
    """
    try:
        schema = plain(schema)
        text = json.dumps({**schema, "x-guidance": {**_OPTIONS, **(_SPACED if spaced else {})}}, allow_nan=False)
        patterns = references = intersections = 0
        for key, value in _members(schema):
            patterns += len(value) if key == "pattern" and isinstance(value, str) else 0
            patterns += sum(map(len, value)) if key == "patternProperties" and isinstance(value, dict) else 0
            references += key in ("$ref", "$dynamicRef", "$recursiveRef")
            intersections += len(value) if key == "allOf" and isinstance(value, list) else 0
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the JSON schema is not JSON: {one_line(str(error))}", PARAM) from None
    for number, limit, what in (
        (patterns, MAX_PATTERNS, "characters in its patterns"),
        (references, MAX_REFERENCES, "references"),
        (intersections, MAX_INTERSECTIONS, "members of allOf"),
    ):
        if number > limit:
            raise RequestError(f"the JSON schema has {number} {what}, at most {limit} are allowed: simplify it", PARAM)
    return f"%json {text}"


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            yield from _members(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _members(inner)


def one_line(message: str) -> str:
    """An error of llguidance on one line, without the grammar's text."""
    said = re.split(r"\n\s*\d+ \||\n<|\. Enable ", message)[0].replace("NoExtensionBias", "it allows no text at all")
    said = re.sub(r"^(at )?\d+\(\d+\): |^failed to compile JSON schema: ", "", said)
    return shorten(said.removeprefix("failed to compile JSON schema: "), 200, placeholder=" ...") or "it is not valid"
