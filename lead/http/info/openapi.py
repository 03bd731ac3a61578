"""The OpenAPI document of the HTTP side, made of the table of endpoints and the models of their bodies.

FastAPI's own document would not know these models: bodies are parsed by hand, for the sake of their error messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import duo
from lead.http.errors import style_of
from lead.http.site import Handler

JSON = "application/json"
_REFS = "#/components/schemas/"

Shape = type[BaseModel]
Schema = dict[str, Any]

REFUSED = {400: "The request is wrong. The error names the field at fault.", 413: "The body is too large."}
UNAVAILABLE = {503: "The model is loading, or too many requests wait. Try again after `Retry-After` seconds."}
FAILED = {500: "An unexpected failure of the lead."}
LOCKED = {401: "The lead wants an API key, and the request has none or a wrong one."}
OFF = {501: "The lead was started without this endpoint."}


@dataclass(frozen=True)
class Endpoint:
    """One method of one path, and of paths that mean the same."""

    tag: str
    method: str
    paths: Sequence[str]
    handler: Handler
    summary: str
    answer: Shape | Schema
    """The body of status 200: a model or a schema."""
    asked: Shape | None = None
    """The body of the request."""
    description: str = ""
    media: str = JSON
    """Type of the answer's body."""
    events: Shape | None = None
    """What the events hold as JSON, if the answer can be a stream."""
    named_events: bool = False
    """Whether events have names. The stream then ends without `[DONE]`."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Further statuses whose body is an error object."""
    others: Mapping[int, tuple[str, Shape]] = field(default_factory=dict)
    """Statuses whose body is no error object."""
    parameters: Sequence[Schema] = ()
    listed: bool = False
    """Whether the body of status 200 is a list of `answer`."""
    head: bool = False
    """Whether it answers HEAD too."""
    public: bool = False
    """Whether it needs no key."""
    while_loading: bool = False
    """Whether it answers before the model is loaded."""


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these endpoints."""
    names = _schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        for path in [path.replace(":path}", "}") for path in endpoint.paths]:
            paths.setdefault(path, {})[endpoint.method] = _operation(endpoint, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "duo lead",
            "version": duo.__version__,
            "description": "A large model answers. It verifies the guesses of small models in its own forward passes.",
        },
        "paths": paths,
        "components": {
            "schemas": names,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "Needed if the lead has an --api-key."}
            },
        },
        # A lead that listens on loopback alone needs no key.
        "security": [{}, {"key": []}],
    }


def _schemas(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    shapes = [shape for endpoint in endpoints for shape in (endpoint.asked, endpoint.answer, endpoint.events)]
    errors = [style_of(path).shape for endpoint in endpoints for path in endpoint.paths]
    models = {shape: None for shape in [*shapes, *errors] if isinstance(shape, type)}
    # In answers, too, a field with a default may be absent: "validation" says so.
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template=_REFS + "{model}")
    found: dict[str, Any] = schema["$defs"]
    return found


def _operation(endpoint: Endpoint, path: str) -> dict[str, Any]:
    answer, error = _schema(endpoint.answer), _schema(style_of(path).shape)
    answers = {endpoint.media: {"schema": {"type": "array", "items": answer} if endpoint.listed else answer}}
    if endpoint.events:
        answers["text/event-stream"] = {"schema": _event(endpoint.events, error, endpoint.named_events)}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": answers}}
    for status, (why, shape) in endpoint.others.items():
        responses[str(status)] = {"description": why, "content": {JSON: {"schema": _schema(shape)}}}
    for status, why in _errors(endpoint).items():
        responses[str(status)] = {"description": why, "content": {JSON: {"schema": error}}}
        if status == 503:
            wait = {"description": "Seconds.", "schema": {"type": "integer"}}
            responses["503"]["headers"] = {"Retry-After": wait}
    operation: dict[str, Any] = {
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method}{path.replace('/', '_').replace('-', '_').replace('.', '_')}",
        "responses": dict(sorted(responses.items())),
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.parameters:
        operation["parameters"] = list(endpoint.parameters)
    if endpoint.asked is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _schema(endpoint.asked)}}}
    if str(401) not in responses:
        operation["security"] = []
    return operation


def _errors(endpoint: Endpoint) -> Mapping[int, str]:
    """Statuses whose body is an error object."""
    return {
        **({} if endpoint.public else LOCKED),
        **(REFUSED if endpoint.asked else {}),
        **({} if endpoint.while_loading else UNAVAILABLE),
        **FAILED,
        **endpoint.errors,
    }


def _event(shape: Shape, error: Schema, named: bool) -> Schema:
    """The schema of one event of a stream. Before OpenAPI 3.2, `schema` describes one event."""
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": {"anyOf": [_schema(shape), error]}}
    if named:
        return {
            "type": "object",
            "description": "With `stream`: one event, whose data is JSON. Its name is the `type` of the data.",
            "properties": {"event": {"type": "string"}, "data": data},
            "required": ["event", "data"],
        }
    return {
        "type": "object",
        "description": "With `stream`: one event, whose data is JSON. The last event is an error or `[DONE]`.",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
        "required": ["data"],
    }


def _schema(shape: Shape | Schema) -> Schema:
    return {"$ref": _REFS + shape.__name__} if isinstance(shape, type) else shape
