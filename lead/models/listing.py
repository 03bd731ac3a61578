"""What clients are told about the models, in the forms of OpenAI, llama-server and llama-swap."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from lead.http.info import status
from lead.models.pool import Pool
from lead.models.registry import Status
from lead.models.settings import ModelSettings


class ModelStatus(BaseModel):
    """As llama-server's router says it. `reason`: why the last load failed, or why the process ended."""

    value: Literal["unloaded", "loading", "loaded"]
    failed: bool = False
    reason: str | None = None


class ListedModel(status.Model):
    """`name` and `description`: for people, from the file of `--models`."""

    status: ModelStatus
    aliases: list[str]
    name: str | None = None
    description: str | None = None


class ListedModels(status.ModelPage):
    data: list[ListedModel]


class ListedBack(status.Back):
    """`target`: the model that it drafts for; null while none of its vocabulary is loaded."""

    target: str | None


class ListedBacks(BaseModel):
    """`speedup`: of the model in `?model=`, else of the one that was used last."""

    data: list[ListedBack]
    speedup: status.BacksSpeedup | None


class Named(BaseModel):
    """Body of POST /models/load and /models/unload."""

    model: str


class Success(BaseModel):
    success: Literal[True]


_SHOWN: dict[Status, str] = {
    "unloaded": "unloaded",
    "loading": "loading",
    "loaded": "loaded",
    "stopping": "unloaded",
}


def listed(pool: Pool, model: ModelSettings, created: int) -> dict[str, object]:
    entry = pool.entries[model.name]
    state: dict[str, object] = {"value": _SHOWN[entry.status]}
    if entry.reason:
        state |= {"failed": True, "reason": entry.reason}
    shown = {"name": model.title, "description": model.description}
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "duo",
        "status": state,
        "aliases": list(model.aliases),
        **{key: text for key, text in shown.items() if text},
    }
