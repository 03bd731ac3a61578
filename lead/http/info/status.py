"""State of the lead for programs: health, model, backs, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from lead.api import BackState, Benefit
from lead.http.errors import SwitchedOffError, UnknownModelError, json_response
from lead.http.site import Site


class Health(BaseModel):
    status: Literal["ok", "loading model"]


class Model(BaseModel):
    """The last three are Anthropic's, for clients that send `anthropic-version`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    type: Literal["model"] | None = None
    display_name: str | None = None
    created_at: str | None = None


class ModelPage(BaseModel):
    """A list. The last three are Anthropic's, for clients that send `anthropic-version`. It is always whole."""

    object: Literal["list"]
    has_more: Literal[False] | None = None
    first_id: str | None = None
    last_id: str | None = None


class ModelList(ModelPage):
    data: list[Model]


class Back(BaseModel):
    """A connected back. `round_trip_ms` is null until it is measured."""

    name: str
    model: str
    state: BackState
    round_trip_ms: float | None
    drafted: int
    accepted: int


class BacksSpeedup(BaseModel):
    """What backs bring: `times` as fast as the target alone, with its standard error.

    `with_backs`, `alone`: tokens per second of one answer, over the last minutes. `state` is `none` without a back,
    `resting` if the target is faster alone. `trial_in_tokens`: how long they rest. `says`: all that in one line.
    """

    times: float
    error: float
    with_backs: float
    alone: float
    state: Literal["none", "with", "trial", "measuring", "resting"]
    trial_in_tokens: int | None
    says: str


class BackList(BaseModel):
    """`speedup` is null until it is known."""

    data: list[Back]
    speedup: BacksSpeedup | None


async def health(site: Site, request: Request) -> Response:
    ready = site.answerer.ready
    return json_response({"status": "ok"}) if ready else json_response({"status": "loading model"}, 503)


async def models(site: Site, request: Request) -> Response:
    return model_page(request, [_model(site)])


async def model_by_name(site: Site, request: Request) -> Response:
    name = request.path_params["name"]
    if name != site.model:
        raise UnknownModelError(f"there is no model {name[:100]!r} here: GET /v1/models names the one that is")
    return json_response(shown(request, _model(site)))


async def backs(site: Site, request: Request) -> Response:
    benefit = site.answerer.benefit if site.answerer.ready else None
    data = [asdict(back) for back in site.answerer.backs()]
    return json_response({"data": data, "speedup": benefit and _speedup(benefit)})


async def metrics(site: Site, request: Request) -> Response:
    if not site.options.metrics:
        raise SwitchedOffError("GET /metrics is switched off: start the lead with --metrics")
    return Response(site.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def model_page(request: Request, models: Sequence[Mapping[str, Any]]) -> Response:
    """A list of models, each in OpenAI's form. See `ModelPage`."""
    page: dict[str, Any] = {"object": "list", "data": [shown(request, model) for model in models]}
    if _is_anthropic(request):
        first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
        page |= {"has_more": False, "first_id": first, "last_id": last}
    return json_response(page)


def shown(request: Request, model: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model in OpenAI's form, and in Anthropic's beside it if the client knows that one. See `Model`."""
    if not _is_anthropic(request):
        return model
    created = datetime.fromtimestamp(model["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**model, "type": "model", "display_name": model.get("name", model["id"]), "created_at": created}


def _is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _speedup(benefit: Benefit) -> dict[str, object]:
    return {**asdict(benefit), "says": benefit.says}


def _model(site: Site) -> dict[str, object]:
    return {"id": site.model, "object": "model", "created": site.answerer.info.created, "owned_by": "duo"}
