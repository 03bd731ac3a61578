"""Values that a model writes as bare text, such as Qwen3-Coder's. The tool's schema says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lead.chat.forms.allowed import allowed, type_of

_WORDS = {"True": True, "False": False, "None": None}
"""Python's spelling, which some templates use."""


def schema_of(parameters: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """The schema of one parameter. It can be used alone: it has the definitions that it refers to."""
    root = parameters or {}
    properties = root.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**definitions, **found} if definitions else found


def typed(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value that a text stands for, by its schema. The text itself if it stands for none. Other values stay."""
    if not isinstance(value, str):
        return value
    can = allowed(schema)
    if can.types == {"string"} or value in (can.strings or ()):
        return value
    bare = value.strip()
    try:
        meant = _WORDS[bare] if bare in _WORDS else _of_json(bare)
    except (ValueError, RecursionError):
        return value
    type = type_of(meant)
    if type == "string":
        return value if type in can.types else meant
    if type in can.types or (type == "number" and "integer" in can.types):
        return meant
    return value


def told(text: str, schema: Mapping[str, Any], string: bool) -> Any:
    """The value of a text of which the model tells whether it is a string. Otherwise it is JSON."""
    if string and may_be_text(schema):
        return text
    try:
        meant = _of_json(text) if not string else None
    except (ValueError, RecursionError):
        meant = None
    if isinstance(meant, str) or (meant is not None and allowed(schema).takes(meant)):
        return meant
    return typed(text, schema)


def may_be_text(schema: Mapping[str, Any]) -> bool:
    """Whether the schema allows a string."""
    return "string" in allowed(schema).types


def _of_json(text: str) -> Any:
    """The value of JSON. Raises ValueError and RecursionError, also for numbers that JSON does not have."""
    value = json.loads(text)
    json.dumps(value, allow_nan=False)
    return value
