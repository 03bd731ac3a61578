"""The table of all endpoints.

The routes, the OpenAPI document and the list of paths that need no key are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response

from lead.http.anthropic.fields import AnthropicCountRequest, AnthropicRequest
from lead.http.anthropic.messages import count_tokens, messages
from lead.http.anthropic.shapes import AnthropicMessage, AnthropicTokenCount, MessageEvent
from lead.http.errors import json_response
from lead.http.info import docs_page, join, llama_server, openapi, slot_actions, status
from lead.http.info.openapi import LOCKED, OFF, Endpoint
from lead.http.openai import chat, completions, infill, llama_duo
from lead.http.page import routes as page
from lead.http.responses import fields as responses_fields
from lead.http.responses import responses, shapes
from lead.http.site import Site


@cache
def description() -> Mapping[str, Any]:
    """The OpenAPI document of all endpoints."""
    return openapi.document(ENDPOINTS)


@cache
def _docs_page() -> str:
    return docs_page.render(description())


async def _description(site: Site, request: Request) -> Response:
    return json_response(description())


async def _docs(site: Site, request: Request) -> Response:
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(_docs_page(), headers={"Content-Security-Policy": policy})


_UNKNOWN = "Unknown fields are taken. A name that is nearly a known one is refused."
_NO_RESPONSE = {404: "The lead does not remember this response."}
_RESPONSE_ID = {"name": "response_id", "in": "path", "required": True, "schema": {"type": "string"}}

ENDPOINTS: Sequence[Endpoint] = (
    Endpoint(
        "Answers", "post", ["/v1/chat/completions", "/chat/completions"], chat.chat_completions,
        "Answer a conversation", chat.ChatCompletion, chat.ChatRequest,
        f"OpenAI's chat completions. {_UNKNOWN}", events=chat.ChatChunk,
    ),
    Endpoint(
        "Answers", "post", ["/v1/completions", "/completions"], completions.completions,
        "Continue a text", completions.Completion, completions.CompletionRequest,
        f"OpenAI's completions. {_UNKNOWN}", events=completions.Completion,
    ),
    Endpoint(
        "Answers", "post", ["/v1/responses", "/responses"], responses.create,
        "Answer the items of a conversation", shapes.Response, responses_fields.ResponsesRequest,
        f"OpenAI's Responses API. {_UNKNOWN}", events=shapes.ResponseEvent, named_events=True,
        errors={404: "An item that the input refers to is not remembered."},
    ),
    Endpoint(
        "Answers", "post", ["/v1/responses/input_tokens"], responses.input_tokens,
        "Count the tokens of a prompt", shapes.TokenCount, responses_fields.CountRequest,
        errors={404: "An item that the input refers to is not remembered."},
    ),
    Endpoint(
        "Answers", "get", ["/v1/responses/{response_id}"], responses.get,
        "A response that the lead remembers", shapes.Response,
        errors={400: "The request is wrong.", **_NO_RESPONSE}, parameters=[_RESPONSE_ID],
    ),
    Endpoint(
        "Answers", "delete", ["/v1/responses/{response_id}"], responses.delete,
        "Forget a response", shapes.DeletedResponse, errors=_NO_RESPONSE, parameters=[_RESPONSE_ID],
    ),
    Endpoint(
        "Answers", "post", ["/v1/messages"], messages,
        "Answer a conversation, in Anthropic's form", AnthropicMessage, AnthropicRequest,
        f"Anthropic's messages. {_UNKNOWN}", events=MessageEvent, named_events=True,
    ),
    Endpoint(
        "Answers", "post", ["/v1/messages/count_tokens"], count_tokens,
        "Count the tokens of a conversation", AnthropicTokenCount, AnthropicCountRequest,
        "Nothing is generated.",
    ),
    Endpoint(
        "Answers", "post", ["/infill"], infill.infill,
        "Fill a gap in code", infill.Infill, infill.InfillRequest,
        f"As in llama-server. {_UNKNOWN} The event with `stop` ends a stream.", events=infill.Infill,
        errors={501: "The vocabulary of the model has no tokens for code in the middle."},
    ),
    Endpoint(
        "Answers", "post", ["/messages"], llama_duo.messages,
        "Answer a conversation, in llama_duo's form", llama_duo.MessagesResponse, llama_duo.MessagesRequest,
        "Greedy, unless the request says how to sample.",
    ),
    Endpoint("Model", "get", ["/v1/models", "/models"], status.models, "The model", status.ModelList),
    Endpoint(
        "Model", "get", ["/v1/models/{name:path}"], status.model_by_name, "The model, by its name", status.Model,
        errors={404: "There is no such model here."},
        parameters=[{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
    ),
    Endpoint(
        "Model", "post", ["/tokenize"], llama_server.tokenize,
        "Text to tokens", llama_server.TokenizeResponse, llama_server.TokenizeRequest,
    ),
    Endpoint(
        "Model", "post", ["/detokenize"], llama_server.detokenize,
        "Tokens to text", llama_server.DetokenizeResponse, llama_server.DetokenizeRequest,
    ),
    Endpoint(
        "Model", "post", ["/apply-template"], llama_server.apply_template,
        "The prompt of a conversation", llama_server.TemplateResponse, llama_server.TemplateRequest,
    ),
    Endpoint("State", "get", ["/props"], llama_server.props, "Settings of the server", llama_server.Props),
    Endpoint(
        "State", "get", ["/health", "/v1/health"], status.health, "Whether the model is loaded", status.Health,
        others={503: ("The model is loading.", status.Health)}, head=True, public=True, while_loading=True,
    ),
    Endpoint(
        "State", "get", ["/slots"], llama_server.slots, "What is being answered", llama_server.Slot,
        listed=True, errors=OFF,
        parameters=[{
            "name": "fail_on_no_slot",
            "in": "query",
            "required": False,
            "description": "With any value: status 503 if no slot is idle.",
            "schema": {"type": "string"},
        }],
    ),
    Endpoint(
        "State", "post", ["/slots/{id}"], slot_actions.slot_action,
        "Save a slot to a file, restore it or erase it", slot_actions.SlotAction, slot_actions.SlotActionRequest,
        "As in llama-server. Only idle slots take part. `erase` needs no body.",
        errors={**OFF, 507: "The slot cannot be written to its file."},
        parameters=[
            {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
            {
                "name": "action", "in": "query", "required": True,
                "schema": {"type": "string", "enum": list(slot_actions.ACTIONS)},
            },
        ],
    ),
    Endpoint("State", "get", ["/backs"], status.backs, "The backs that are connected", status.BackList),
    Endpoint(
        "State", "get", ["/join"], join.join, "Commands for other machines", join.Join, while_loading=True,
    ),
    Endpoint(
        "State", "get", ["/metrics"], status.metrics, "Figures for Prometheus", {"type": "string"},
        media="text/plain", errors=OFF, while_loading=True,
    ),
    Endpoint(
        "State", "get", ["/openapi.json"], _description, "This document", {"type": "object"},
        errors=LOCKED, public=True, while_loading=True,
    ),
    Endpoint(
        "State", "get", ["/docs"], _docs, "This document for people", {"type": "string"},
        media="text/html", errors=LOCKED, public=True, while_loading=True,
    ),
)  # fmt: skip

_PUBLIC = frozenset(
    [*page.FILES, "/favicon.ico", *(path for endpoint in ENDPOINTS if endpoint.public for path in endpoint.paths)]
)


def is_public(path: str) -> bool:
    """Whether reading this path needs no key: the lead's health and description, and the page, which asks for a key."""
    return path in _PUBLIC or path.startswith(page.STATIC)
