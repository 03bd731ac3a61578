"""The HTTP side of several models: one port, and `model` in a request says who answers.

Endpoints that answer are handed on to the lead of that model, which is loaded if need be. Endpoints that inform load
nothing: those of a single lead tell of the model in `?model=`, else of the one that was used last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import httpx2
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import from_json

from duo.errors import RequestError
from lead.api import BackView
from lead.http import absent, endpoints
from lead.http.errors import (
    ModelUnavailableError,
    SwitchedOffError,
    UnknownModelError,
    handle_errors,
    json_response,
)
from lead.http.info import docs_page, join, openapi, status
from lead.http.info.openapi import Endpoint
from lead.http.page import routes as page
from lead.http.parsing import short
from lead.http.site import Site
from lead.models.figures import merged
from lead.models.forward import HOP, Forwarded, kept, request_of
from lead.models.listing import ListedBacks, ListedModel, ListedModels, Named, Success, listed
from lead.models.pool import Loaded, Pool
from lead.models.settings import ModelSettings
from lead.security.joining import Commands

NAMED = 20
"""Names of models in an error message."""
LOOK_SECONDS = 5.0
"""For a look at one of the models."""


class Front:
    """What the endpoints work with."""

    def __init__(
        self,
        pool: Pool,
        held: Callable[[], Sequence[BackView]],
        metrics: bool = False,
        joining: Commands | None = None,
    ) -> None:
        """`held`: backs that wait for a model of their vocabulary. `metrics`: whether clients may see figures.
        `joining`: how other machines join, if they can, without secrets."""
        self.pool = pool
        self.held = held
        self.metrics = metrics
        self.joining = joining
        self.created = int(time.time())
        self._document: dict[str, Any] = {}

    # -- Who is asked ----------------------------------------------------------------------------------------------

    def model(self, name: str | None) -> ModelSettings:
        """The model that a request names. Raises RequestError, UnknownModelError."""
        if len(models := self.pool.settings.models) == 1:
            return models[0]  # as with a lead that has no names
        if not name:
            raise RequestError(f"model is missing: it says who is asked, {self._names()}", "model")
        return self._known(name)

    def _known(self, name: str) -> ModelSettings:
        """The model with this name or alias. Raises UnknownModelError."""
        if found := self.pool.settings.find(name):
            return found
        raise UnknownModelError(f"there is no model {name[:100]!r} here, but {self._names()}")

    def _names(self) -> str:
        names = [model.name for model in self.pool.settings.models]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more

    async def asked(self, request: Request) -> tuple[ModelSettings, bytes, bool]:
        """The model that the request names, its body, and whether it wants a stream. Raises RequestError."""
        body = await request.body()
        name, streamed = _read(body)
        return self.model(name or request.query_params.get("model")), body, streamed

    def looked_at(self, request: Request) -> Loaded | None:
        """The model that a request without a question is about; None if no model is loaded. It loads nothing."""
        pool, name = self.pool, request.query_params.get("model")
        if name is not None:
            model = self.model(name)
            if (found := pool.loaded.get(model.name)) is None:
                raise ModelUnavailableError(f"{model.name} is not loaded: ask it, or POST /models/load")
            return found
        return max(pool.loaded.values(), key=lambda one: pool.entries[one.name].used, default=None)

    # -- Endpoints -------------------------------------------------------------------------------------------------

    async def forward(self, request: Request) -> Response:
        model, body, streamed = await self.asked(request)
        return Forwarded(self.pool, model.name, body, streamed)

    async def look(self, request: Request) -> Response:
        """A single lead's own word about its state, or about a response that it remembers."""
        loaded = self.looked_at(request)
        if loaded is None:
            if request.url.path == "/slots":
                return json_response([])
            raise ModelUnavailableError("no model is loaded: ask one, or POST /models/load")
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                found = await loaded.http.send(request_of(loaded, request.scope, b""))
        except (httpx2.TransportError, TimeoutError):
            raise ModelUnavailableError(f"{loaded.name} does not answer") from None
        answer = Response(found.content, found.status_code)
        answer.raw_headers = kept(found.headers.raw, HOP)
        return answer

    async def models(self, request: Request) -> Response:
        shown = [model for model in self.pool.settings.models if not model.unlisted]
        return status.model_page(request, [listed(self.pool, one, self.created) for one in shown])

    async def model_by_name(self, request: Request) -> Response:
        model = self._known(request.path_params["name"])
        return json_response(status.shown(request, listed(self.pool, model, self.created)))

    async def load(self, request: Request) -> Response:
        self.pool.want((await self._named(request)).name)
        return json_response({"success": True})

    async def unload(self, request: Request) -> Response:
        self.pool.put_away((await self._named(request)).name)
        return json_response({"success": True})

    async def _named(self, request: Request) -> ModelSettings:
        """Of a request to load or unload. Any name will not do, even if there is one model."""
        name, _ = _read(await request.body())
        if not name:
            raise RequestError("model is missing", "model")
        return self._known(name)

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def backs(self, request: Request) -> Response:
        held = [asdict(back) | {"target": None} for back in self.held()]
        looked_at = self.looked_at(request)
        found = await asyncio.gather(*(self._get(one, "/backs") for one in self.pool.loaded.values()))
        answers = {name: answer.json() for name, answer in found if answer}
        drafting = [back | {"target": name} for name, answer in answers.items() for back in answer["data"]]
        speedup = answers.get(looked_at.name, {}).get("speedup") if looked_at else None
        return json_response({"data": [*drafting, *held], "speedup": speedup})

    async def join(self, request: Request) -> Response:
        return join.answer(self.joining)

    async def figures(self, request: Request) -> Response:
        if not self.metrics:
            raise SwitchedOffError("GET /metrics is switched off: start the lead with --metrics")
        found = await asyncio.gather(*(self._get(one, "/metrics") for one in self.pool.loaded.values()))
        texts = {name: answer.text for name, answer in found if answer}
        return Response(merged(self.pool.entries, texts), media_type=CONTENT_TYPE_LATEST)

    async def _get(self, loaded: Loaded, path: str) -> tuple[str, httpx2.Response | None]:
        """What a model's own lead says; None if it does not answer."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                answer = await loaded.http.get(path)
        except (httpx2.TransportError, TimeoutError):
            return loaded.name, None
        return loaded.name, answer if answer.is_success else None

    async def description(self, request: Request) -> Response:
        return json_response(self.document)

    async def docs(self, request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
        return HTMLResponse(docs_page.render(self.document), headers={"Content-Security-Policy": policy})

    @property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if not self._document:
            self._document = openapi.document([endpoint for endpoint, _ in self.endpoints()])
        return self._document

    def endpoints(self) -> list[tuple[Endpoint, Callable[[Request], Awaitable[Response]]]]:
        """All endpoints, with those who answer them. Those of a single lead are handed on, but for a few."""
        mine: dict[str, tuple[Callable[[Request], Awaitable[Response]], dict[str, Any]]] = {
            "/v1/models": (self.models, {"answer": ListedModels, "summary": "The models"}),
            "/v1/models/{name:path}": (self.model_by_name, {"answer": ListedModel}),
            "/health": (self.health, {}),
            "/backs": (self.backs, {"answer": ListedBacks}),
            "/join": (self.join, {}),
            "/metrics": (self.figures, {}),
            "/openapi.json": (self.description, {}),
            "/docs": (self.docs, {}),
        }
        found = list[tuple[Endpoint, Callable[[Request], Awaitable[Response]]]]()
        for endpoint in endpoints.ENDPOINTS:
            usual = self.forward if endpoint.method == "post" else self.look
            handler, changes = mine.get(endpoint.paths[0], (usual, _of_a_model(endpoint)))
            found.append((replace(endpoint, **changes), handler))
        for path, handler, summary in (
            ("/models/load", self.load, "Load a model"),
            ("/models/unload", self.unload, "Put a model away, once its answers have ended"),
        ):
            extra = Endpoint("Model", "post", [path], _nobody, summary, Success, Named, errors={404: "No such model."})
            found.append((extra, handler))
        return found


def create_app(front: Front) -> FastAPI:
    """The whole HTTP side of several models, for uvicorn behind `lead.http.edge.auth.guarded`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for endpoint, handler in front.endpoints():
        for path in endpoint.paths:
            if endpoint.head:
                app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
            app.add_api_route(path, handler, methods=[endpoint.method])
    app.include_router(page.router)
    app.include_router(absent.router())
    handle_errors(app)
    return app


async def _nobody(site: Site, request: Request) -> Response:
    """In place of a single lead's handler, which these endpoints do not have."""
    raise NotImplementedError


def _of_a_model(endpoint: Endpoint) -> dict[str, Any]:
    """What changes in the description of an endpoint that a model's own lead answers."""
    query = {"name": "model", "in": "query", "required": False, "schema": {"type": "string"}}
    statuses = {400: "The request is wrong, or names no model.", 404: "There is no such model.", **endpoint.errors}
    return {"parameters": [*endpoint.parameters, query], "errors": statuses}


def _read(body: bytes) -> tuple[str | None, bool]:
    """What a request says of its model, and whether it wants a stream. Raises RequestError."""
    try:
        fields = from_json(body or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object")
    name = fields.get("model")
    if name is not None and not isinstance(name, str):
        raise RequestError(f"model is {short(name)}: it must be a text", "model")
    return name, fields.get("stream") is True
