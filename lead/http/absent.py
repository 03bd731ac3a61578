"""Endpoints that clients know from other servers and that the lead does not have.

Each answers 404 with a line that says why, and what to use instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lead.http.errors import AbsentError

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_BATCHES = "the lead keeps no batches: ask as many questions at once as you like"
_FILES = "the lead keeps no files, send the text in a message"
_TEXT = "the lead reads and writes text alone"
_OLLAMA = "this is Ollama's API, use OpenAI's under /v1"

ABSENT: Mapping[str, str] = {
    "/completion": "llama-server's older form is not here, use /v1/completions",
    "/embedding": "the lead computes no embeddings",
    "/embeddings": "the lead computes no embeddings",
    "/v1/embeddings": "the lead computes no embeddings",
    "/rerank": "the lead ranks no documents",
    "/reranking": "the lead ranks no documents",
    "/v1/rerank": "the lead ranks no documents",
    "/v1/reranking": "the lead ranks no documents",
    "/v2/rerank": "the lead ranks no documents",
    "/score": "the lead compares no texts",
    "/v1/score": "the lead compares no texts",
    "/classify": "the lead classifies nothing, use a json_schema with an enum",
    "/pooling": "the lead computes no embeddings",
    "/lora-adapters": "the lead serves its model without adapters",
    "/v1/responses/{response_id}/cancel": "no response runs in the background: close the connection to end one",
    "/v1/responses/{response_id}/input_items": "the lead tells no items of a request, GET the response itself",
    "/v1/responses/compact": "the lead compacts no conversations, ask the model for a summary",
    "/v1/conversations": "the lead keeps no conversations, use previous_response_id with /v1/responses",
    "/v1/conversations/{rest:path}": "the lead keeps no conversations, use previous_response_id with /v1/responses",
    "/v1/assistants": "the Assistants API is not here, use /v1/responses",
    "/v1/assistants/{rest:path}": "the Assistants API is not here, use /v1/responses",
    "/v1/threads": "the Assistants API is not here, use /v1/responses",
    "/v1/threads/{rest:path}": "the Assistants API is not here, use /v1/responses",
    "/v1/moderations": "the lead moderates nothing",
    "/v1/complete": "Anthropic's older form is not here, use /v1/messages",
    "/v1/files": _FILES,
    "/v1/files/{rest:path}": _FILES,
    "/v1/uploads": _FILES,
    "/v1/containers": "the lead runs no code",
    "/v1/batches": _BATCHES,
    "/v1/batches/{rest:path}": _BATCHES,
    "/v1/messages/batches": _BATCHES,
    "/v1/messages/batches/{rest:path}": _BATCHES,
    "/v1/fine_tuning/jobs": "the lead trains nothing",
    "/v1/vector_stores": "the lead searches nothing",
    "/v1/vector_stores/{rest:path}": "the lead searches nothing",
    "/v1/alpha/search": "the lead searches nothing",
    "/v1/realtime": _TEXT,
    "/v1/audio/speech": _TEXT,
    "/v1/audio/transcriptions": _TEXT,
    "/v1/audio/translations": _TEXT,
    "/v1/images/generations": _TEXT,
    "/v1/images/edits": _TEXT,
    "/v1/images/variations": _TEXT,
    "/api/{rest:path}": _OLLAMA,
}
"""By path, why not."""


def router() -> APIRouter:
    """The routes of all of them."""
    router = APIRouter()
    for path, why in ABSENT.items():
        router.add_api_route(path, _refusing(why), methods=_METHODS, include_in_schema=False)
    return router


def _refusing(why: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise AbsentError(f"{request.method} {request.url.path}: {why}")

    return refuse
