"""All that the lead has over HTTP, put together: answers, what can be looked at, figures, and its description."""

from __future__ import annotations

from fastapi import FastAPI

from lead import introspection, metrics, openapi, page
from lead.answers import Answerer
from lead.http import Options, create_app


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
