"""All that the lead has over HTTP, put together: answers, what can be looked at, figures, and its description."""

from __future__ import annotations

from fastapi import FastAPI

from lead.api import Answerer
from lead.http import Options, create_app
from lead.http.info import llama_server as introspection
from lead.http.info import metrics, openapi
from lead.http.page import routes as page


def create_site(answerer: Answerer, options: Options | None = None) -> FastAPI:
    """The whole HTTP side, ready for uvicorn."""
    options = options or Options()
    figures = metrics.Metrics(answerer)
    app = create_app(answerer, options, figures, [introspection.router(answerer, options)])
    # These have something to say while the model loads.
    app.include_router(metrics.router(figures, options))
    app.include_router(openapi.router())
    app.include_router(page.router)
    return app
