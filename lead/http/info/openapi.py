"""The lead's HTTP side described for programs: an OpenAPI document.

It is made from the models that requests are parsed with and from those that say what answers hold, so that it cannot
lag behind. FastAPI's own would not know them: bodies are parsed by hand, for the sake of their error messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import duo
from lead.http.errors import ErrorResponse, json_response
from lead.http.info import docs_page
from lead.http.info import llama_server as introspection
from lead.http.info.status import BackList, Health, Model, ModelList
from lead.http.openai.chat import ChatChunk, ChatCompletion, ChatRequest
from lead.http.openai.completions import Completion, CompletionRequest
from lead.http.openai.llama_duo import MessagesRequest, MessagesResponse

JSON = "application/json"
_REFS = "#/components/schemas/"

Shape = type[BaseModel]
Schema = dict[str, Any]

REFUSED = {
    400: "The request cannot be answered as it stands; `param` names the field at fault.",
    413: "The body is too large.",
}
UNAVAILABLE = {503: "The model is loading, or too many requests wait: come again after `Retry-After` seconds."}
FAILED = {500: "The lead failed in a way it does not know."}
LOCKED = {401: "The lead asks for an API key, and this is none or the wrong one."}
OFF = {501: "The lead was started without this endpoint."}


@dataclass(frozen=True)
class Endpoint:
    """One method of one path, and of paths that mean the same. `answer`: the body of status 200, a model or a schema;
    `media`: its type; `events`: what the events of a stream hold as JSON, where the answer can be one."""

    tag: str
    method: str
    paths: Sequence[str]
    summary: str
    answer: Shape | Schema
    asked: Shape | None = None
    description: str = ""
    media: str = JSON
    events: Shape | None = None
    errors: Mapping[int, str] = field(default_factory=lambda: LOCKED | UNAVAILABLE | FAILED)
    parameters: Sequence[Schema] = ()
    others: Mapping[int, tuple[str, Shape]] | None = None
    """Statuses whose body is no error object."""


_ASKING = LOCKED | REFUSED | UNAVAILABLE | FAILED
_NO_SLOT = {
    "name": "fail_on_no_slot",
    "in": "query",
    "required": False,
    "description": "With any value: status 503 where no slot is idle.",
    "schema": {"type": "string"},
}

ENDPOINTS: Sequence[Endpoint] = (
    Endpoint(
        "Answers", "post", ["/v1/chat/completions", "/chat/completions"], "Answer a conversation",
        ChatCompletion, ChatRequest, "OpenAI's chat completions. Fields that are unknown are ignored.",
        events=ChatChunk, errors=_ASKING,
    ),
    Endpoint(
        "Answers", "post", ["/v1/completions", "/completions"], "Continue a text",
        Completion, CompletionRequest, "OpenAI's completions. Fields that are unknown are ignored.",
        events=Completion, errors=_ASKING,
    ),
    Endpoint(
        "Answers", "post", ["/messages"], "Answer a conversation, in llama_duo's form",
        MessagesResponse, MessagesRequest, "Greedy, unless the request says how to sample.", errors=_ASKING,
    ),
    Endpoint("Model", "get", ["/v1/models", "/models"], "The model", ModelList),
    Endpoint(
        "Model", "get", ["/v1/models/{name}"], "The model, by its name", Model,
        errors=LOCKED | UNAVAILABLE | FAILED | {404: "There is no such model here."},
        parameters=[{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
    ),
    Endpoint(
        "Model", "post", ["/tokenize"], "Text to tokens",
        introspection.TokenizeResponse, introspection.TokenizeRequest, errors=_ASKING,
    ),
    Endpoint(
        "Model", "post", ["/detokenize"], "Tokens to text",
        introspection.DetokenizeResponse, introspection.DetokenizeRequest, errors=_ASKING,
    ),
    Endpoint(
        "Model", "post", ["/apply-template"], "The prompt of a conversation",
        introspection.TemplateResponse, introspection.TemplateRequest, errors=_ASKING,
    ),
    Endpoint("State", "get", ["/props"], "Settings of the server", introspection.Props),
    Endpoint(
        "State", "get", ["/health", "/v1/health"], "Whether the model is loaded", Health,
        errors=FAILED, others={503: ("The model is loading.", Health)},
    ),
    Endpoint(
        "State", "get", ["/slots"], "What is being answered",
        {"type": "array", "items": {"$ref": f"{_REFS}Slot"}}, errors=LOCKED | UNAVAILABLE | FAILED | OFF,
        parameters=[_NO_SLOT],
    ),
    Endpoint("State", "get", ["/backs"], "The backs that are connected", BackList),
    Endpoint(
        "State", "get", ["/metrics"], "Figures for Prometheus", {"type": "string"}, media="text/plain",
        errors=LOCKED | FAILED | OFF,
    ),
    Endpoint("State", "get", ["/openapi.json"], "This document", {"type": "object"}, errors=LOCKED | FAILED),
    Endpoint(
        "State", "get", ["/docs"], "This document for people", {"type": "string"}, media="text/html",
        errors=LOCKED | FAILED,
    ),
)  # fmt: skip
_REFERRED: Sequence[Shape] = (ChatChunk, ErrorResponse, introspection.Slot)
"""Models that only schemas above name."""


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all endpoints."""
    names = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            paths.setdefault(path, {})[endpoint.method] = _operation(endpoint, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "duo lead",
            "version": duo.__version__,
            "description": "A large model that answers, with guesses of small ones verified in its own forward passes.",
        },
        "paths": paths,
        "components": {
            "schemas": names,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "Where the lead has an --api-key."}
            },
        },
        # One that listens on loopback alone asks for none.
        "security": [{}, {"key": []}],
    }


def router() -> APIRouter:
    """GET /openapi.json and GET /docs, a page that loads nothing from anywhere."""
    described = document()
    page = docs_page.render(described)
    api = APIRouter()

    @api.get("/openapi.json")
    async def openapi() -> Response:
        return json_response(described)

    @api.get("/docs")
    async def docs() -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    return api


def _schemas() -> dict[str, Any]:
    shapes = [shape for endpoint in ENDPOINTS for shape in (endpoint.asked, endpoint.answer)]
    models = {shape: None for shape in [*shapes, *_REFERRED] if isinstance(shape, type)}
    # Of answers, too, as they would be read: a field with a default may be absent.
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template=_REFS + "{model}")
    found: dict[str, Any] = schema["$defs"]
    return found


def _operation(endpoint: Endpoint, path: str) -> dict[str, Any]:
    answers = {endpoint.media: {"schema": _schema(endpoint.answer)}}
    if endpoint.events:
        answers["text/event-stream"] = {"schema": _event(endpoint.events)}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": answers}}
    for status, (why, shape) in (endpoint.others or {}).items():
        responses[str(status)] = {"description": why, "content": {JSON: {"schema": _schema(shape)}}}
    for status, why in endpoint.errors.items():
        responses[str(status)] = {"description": why, "content": {JSON: {"schema": _schema(ErrorResponse)}}}
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
    if path.endswith("/health"):
        operation["security"] = []
    return operation


def _event(shape: Shape) -> Schema:
    """Of one event of a stream: before OpenAPI 3.2, `schema` is taken for that."""
    told = {"contentMediaType": JSON, "contentSchema": {"anyOf": [_schema(shape), _schema(ErrorResponse)]}}
    return {
        "type": "object",
        "description": "With `stream`, each event; its data is JSON. An error ends the stream, else `[DONE]` does.",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, {"type": "string", **told}]}},
        "required": ["data"],
    }


def _schema(shape: Shape | Schema) -> Schema:
    return {"$ref": _REFS + shape.__name__} if isinstance(shape, type) else shape
