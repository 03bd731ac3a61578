"""The lead's HTTP side put together: the routes of all endpoints, the page, and what becomes of errors.

A request takes three steps. It is *parsed*: JSON becomes a `Question`, or one line in OpenAI's error object. It is
*answered*, for as long as the client listens. It is *shaped* as the API that was called wants it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from lead.api import Answerer
from lead.http import absent, endpoints
from lead.http.errors import LoadingError, handle_errors
from lead.http.info.metrics import Metrics
from lead.http.info.openapi import Endpoint
from lead.http.page import routes as page
from lead.http.site import Options, Site


def create_app(answerer: Answerer, options: Options | None = None, metrics: Metrics | None = None) -> FastAPI:
    """The whole HTTP side, for uvicorn behind `lead.http.edge.auth.guarded`.

    `metrics` counts the answers if the answerer has it as an observer; the app itself tells it of refusals.
    """
    site = Site(answerer, options or Options(), metrics or Metrics(answerer))
    endpoints.description()  # now, and not while answers are under way
    # FastAPI's own documentation would say nothing: bodies are parsed by hand, for the sake of their error messages.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for endpoint in endpoints.ENDPOINTS:
        handler = _handler(endpoint, site)
        for path in endpoint.paths:
            if endpoint.head:
                app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
            app.add_api_route(path, handler, methods=[endpoint.method])
    app.include_router(absent.router())
    app.include_router(page.router)
    handle_errors(app)
    return app


def _handler(endpoint: Endpoint, site: Site) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint's handler as FastAPI takes it."""

    async def handle(request: Request) -> Response:
        if not (endpoint.while_loading or site.answerer.ready):
            raise LoadingError("the model is still loading: try again in a moment, GET /health says when")
        return await endpoint.handler(site, request)

    return handle
