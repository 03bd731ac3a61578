"""What the lead is and which backs it has, for programs that look."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from lead.api import Answerer
from lead.http.errors import UnknownModelError, json_response
from lead.http.options import Options


class Health(BaseModel):
    status: Literal["ok", "loading model"]


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Back(BaseModel):
    """A connected back. round_trip_ms is null until it has been measured."""

    name: str
    model: str
    state: Literal["waiting", "catching up", "drafting", "silent"]
    round_trip_ms: float | None
    drafted: int
    accepted: int


class BackList(BaseModel):
    data: list[Back]


def looking(answerer: Answerer, options: Options) -> APIRouter:
    """What can be looked at."""
    routes = APIRouter()

    def model() -> dict[str, object]:
        name = options.alias or answerer.model
        return {"id": name, "object": "model", "created": answerer.created, "owned_by": "duo"}

    @routes.get("/v1/models")
    @routes.get("/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [model()]})

    @routes.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        if name != model()["id"]:
            raise UnknownModelError(f"there is no model {name[:100]!r} here: GET /v1/models names the one that is")
        return json_response(model())

    @routes.get("/backs")
    async def backs() -> Response:
        return json_response({"data": [asdict(back) for back in answerer.backs()]})

    return routes
