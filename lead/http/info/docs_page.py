"""An OpenAPI document as a page for people. It needs no script and loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --get: #2a7ab0; --post: #2e8b57 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem }
code { font: 13px/1.5 ui-monospace, monospace } a { color: inherit }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } details[open] summary { margin-bottom: .5rem }
.method { display: inline-block; width: 3.2rem; font-weight: 700; color: var(--get) } .post { color: var(--post) }
.dim { color: var(--dim) } table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem }
td { border-top: 1px solid var(--line); padding: .25rem .6rem .25rem 0; vertical-align: top }
td:first-child { white-space: nowrap; width: 14rem } p { margin: .4rem 0 }
"""


def render(document: Mapping[str, Any]) -> str:
    """The page."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>{_text(info['description'])}"
        '<p class="dim">For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(_tags(document))}<h2>Shapes</h2>{''.join(_shapes(document))}</body></html>"
    )


def _tags(document: Mapping[str, Any]) -> Iterator[str]:
    tags: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tags.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    for tag, operations in tags.items():
        yield f"<h2>{escape(tag)}</h2>{''.join(operations)}"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = []
    for parameter in operation.get("parameters", []):
        what = f"{_type(parameter['schema'])} in the {escape(parameter['in'])}"
        rows.append(_row(parameter["name"], what, parameter.get("description", "")))
    if "requestBody" in operation:
        rows.append(_row("Body", _contents(operation["requestBody"]["content"]), ""))
    for status, response in operation["responses"].items():
        rows.append(_row(status, _contents(response["content"]), response["description"]))
    return (
        f'<details><summary><span class="method {escape(method)}">'
        f'{escape(method.upper())}</span> <code>{escape(path)}</code> <span class="dim">'
        f"{escape(operation['summary'])}</span></summary>{_text(operation.get('description', ''))}"
        f"<table>{''.join(rows)}</table></details>"
    )


def _contents(contents: Mapping[str, Any]) -> str:
    kinds = []
    for media, content in contents.items():
        schema = content["schema"]
        kinds.append(f'{_type(schema)} <span class="dim">{escape(media)}</span>{_text(schema.get("description", ""))}')
    return "<br>".join(kinds)


def _shapes(document: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(document["components"]["schemas"].items()):
        required = schema.get("required", ())
        rows = [
            _row(field, _type(inner) + ("" if field in required else ' <span class="dim">or absent</span>'),
                 inner.get("description", ""))
            for field, inner in schema.get("properties", {}).items()
        ]  # fmt: skip
        # A browser opens a closed part when a link leads to an id inside it.
        yield (
            f'<details><summary><code>{escape(name)}</code></summary><div id="{escape(name)}">'
            f"{_text(schema.get('description', ''))}<table>{''.join(rows)}</table></div></details>"
        )


def _row(name: str, what: str, description: str) -> str:
    return f"<tr><td><code>{escape(name)}</code></td><td>{what}{_text(description)}</td></tr>"


def _type(schema: Mapping[str, Any]) -> str:
    """The schema in a few words of HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}"><code>{name}</code></a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "properties" in schema:
        fields = [f"<code>{escape(name)}</code>: {_type(inner)}" for name, inner in schema["properties"].items()]
        return f"object with {', '.join(fields)}"
    if "contentSchema" in schema:
        return f"JSON of {_type(schema['contentSchema'])}"
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(repr(value))}</code>" for value in values)
    if schema.get("type") == "array":
        inner = schema.get("items", {})
        return f"list of {_type(inner)}{_bounds(schema)}" if inner else f"list{_bounds(schema)}"
    return escape(str(schema.get("type", "anything"))) + _bounds(schema)


_BOUNDS = {
    "minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below",
    "minItems": "at least", "maxItems": "at most", "minLength": "at least", "maxLength": "at most",
}  # fmt: skip


def _bounds(schema: Mapping[str, Any]) -> str:
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return f' <span class="dim">({escape(", ".join(bounds))})</span>' if bounds else ""


def _text(text: str) -> str:
    """Paragraphs of HTML. Words in backquotes become code."""
    paragraphs = [escape(" ".join(part.split())) for part in text.split("\n\n") if part.strip()]
    coded = [re.sub("`+([^`]+)`+", r"<code>\1</code>", paragraph) for paragraph in paragraphs]
    return "".join(f"<p>{paragraph}</p>" for paragraph in coded)
