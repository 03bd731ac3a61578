"""The lead's HTTP side put together: who answers which path.

A request goes three ways in order: it is *parsed* (JSON to a `Question`; whatever is wrong with it becomes one line in
OpenAI's error object), *answered* (for as long as the client listens), and *shaped* as the API that was called has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import Response

from lead.api import Answerer
from lead.http.errors import LoadingError, handle_errors, json_response
from lead.http.info.status import looking
from lead.http.observe import Watch
from lead.http.openai import chat, completions
from lead.http.openai import llama_duo as messages
from lead.http.options import Options


def create_app(
    answerer: Answerer,
    options: Options | None = None,
    watch: Watch | None = None,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The lead's HTTP side, ready for uvicorn.

    `watch` hears of every answer. `routers` are more paths, which like the ones here wait for the model.
    """
    options, watch = options or Options(), watch or Watch()
    # The generated documentation would say nothing: bodies are parsed by hand, for the sake of their error messages.
    app = FastAPI(title="duo lead", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.max_body = options.max_body

    async def loaded() -> None:
        if not answerer.ready:
            raise LoadingError("the model is still loading: try again in a moment, GET /health says when")

    @app.head("/health", include_in_schema=False)
    @app.head("/v1/health", include_in_schema=False)
    @app.get("/health")
    @app.get("/v1/health")
    async def health() -> Response:
        return json_response({"status": "ok"}) if answerer.ready else json_response({"status": "loading model"}, 503)

    answering = APIRouter(dependencies=[Depends(loaded)])
    answering.include_router(looking(answerer, options))
    answering.include_router(chat.router(answerer, options, watch))
    answering.include_router(completions.router(answerer, options, watch))
    answering.include_router(messages.router(answerer, watch))
    for router in routers:
        answering.include_router(router)
    app.include_router(answering)
    handle_errors(app)
    return app
