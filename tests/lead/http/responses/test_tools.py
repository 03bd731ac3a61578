"""Tools of a request, and the choice of them."""

from __future__ import annotations

from typing import Any

import pytest

from duo.errors import RequestError
from lead.http.responses.tools import asked, choice_of, entries

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
READ: dict[str, Any] = {
    "type": "function",
    "name": "read",
    "description": "Reads",
    "parameters": SCHEMA,
    "strict": True,
}
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"}
PATCH: dict[str, Any] = {"type": "custom", "name": "patch", "description": "Patches", "format": LARK}
SPACE: dict[str, Any] = {"type": "namespace", "name": "mcp__x", "description": "X", "tools": [READ, PATCH]}


def test_what_the_model_sees_of_each_kind() -> None:
    read, patch, inner, _ = entries([READ, PATCH, SPACE], "tools")
    assert (read.kind, read.name, read.namespace) == ("function", "read", "")
    assert (read.tool.name, read.tool.description, read.tool.parameters) == ("read", "Reads", SCHEMA)
    assert (patch.kind, patch.name) == ("custom", "patch")
    assert patch.tool.description.startswith("Patches\n") and patch.tool.description.endswith("(lark):\nstart: /a+/")
    assert patch.tool.parameters is not None and patch.tool.parameters["required"] == ["input"]
    assert (inner.tool.name, inner.name, inner.namespace) == ("mcp__x__read", "read", "mcp__x")


@pytest.mark.parametrize(("namespace", "name"), [("a", "a__read"), ("mcp__a__", "mcp__a__read"), ("functions", "read")])
def test_names_in_namespaces(namespace: str, name: str) -> None:
    (entry,) = entries([{**SPACE, "name": namespace, "tools": [READ]}], "tools")
    assert entry.tool.name == name


def test_tools_of_openais_servers_are_not_told() -> None:
    """Agents offer them in every request, and the answer may always do without."""
    hosted = ["web_search", "web_search_preview_2025_03_11", "image_generation", "tool_search"]
    assert entries([{"type": kind} for kind in hosted], "tools") == []


@pytest.mark.parametrize(
    ("tool", "place", "said"),
    [
        ({"type": "mcp", "server_url": "x"}, "tools[0].type", "the lead has no such tool"),
        ({"type": "local_shell"}, "tools[0].type", "the lead has no such tool"),
        ({"name": "read"}, "tools[0].type", "null"),
        ({"type": ["function"]}, "tools[0].type", "the lead has no such tool"),
        ({"type": "function"}, "tools[0].name", "is missing"),
        ({"type": "function", "name": "a b"}, "tools[0].name", "pattern"),
        ({"type": "function", "name": "a", "parameters": {"type": "array"}}, "tools[0].parameters", "of type object"),
        ({"type": "custom", "name": "a", "format": {"type": "x"}}, "tools[0].format.type", "'text' or 'grammar'"),
        ({"type": "namespace", "name": "a", "tools": [SPACE]}, "tools[0].tools[0].type", "namespace"),
        ({"type": "namespace", "name": "a"}, "tools[0].tools", "is missing"),
    ],
)
def test_bad_tools_are_named_with_their_place(tool: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        entries([tool], "tools")
    assert refused.value.param == place and said in str(refused.value) and str(refused.value).startswith(place)


TOOLS = entries([READ, PATCH, SPACE], "tools")


def allowed(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


@pytest.mark.parametrize(
    ("given", "choice", "named", "names"),
    [
        (None, "auto", "", 4),
        ("none", "none", "", 4),
        ("required", "required", "", 4),
        ({"type": "function", "name": "read"}, "required", "read", 4),
        ({"type": "custom", "name": "patch"}, "required", "patch", 4),
        ({"type": "function", "name": "read", "namespace": "mcp__x"}, "required", "mcp__x__read", 4),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "patch"}]}, "auto", "", 2),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "read"}]},
            "required",
            "",
            2,
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, "auto", "", 0),
    ],
)
def test_choices(given: Any, choice: str, named: str, names: int) -> None:
    told = asked(choice_of(given), TOOLS, True)
    assert (told["choice"], told["named"], len(told["tools"])) == (choice, named, names)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("read", 'tool_choice is "read": it must be none, auto, required'),
        (1, "tool_choice is 1"),
        ({"name": "read"}, "tool_choice is {"),
        ({"type": "web_search"}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.name is missing"),
        ({"type": "allowed_tools", "tools": []}, "tool_choice.mode is missing"),
        (allowed("auto", {"type": "function", "name": "write"}), 'tool_choice.tools[0]: no tool has the name "write"'),
    ],
)
def test_bad_choices(given: Any, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        asked(choice_of(given), TOOLS, True)
    assert str(refused.value).startswith(said)
