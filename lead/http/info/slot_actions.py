"""POST /slots/N?action=save|restore|erase, as in llama-server: slots that outlive a restart."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from duo.errors import RequestError
from lead.http.errors import SwitchedOffError, json_response
from lead.http.parsing import ModelField, parse, short
from lead.http.site import Site

ACTIONS = ("save", "restore", "erase")


class SlotActionRequest(ModelField):
    """Body of POST /slots/N. `erase` needs no file."""

    filename: str | None = None


class SaveTimings(BaseModel):
    """Milliseconds."""

    save_ms: float | None = None
    restore_ms: float | None = None


class SlotAction(BaseModel):
    """What was done. Tokens that were saved, restored or erased, and bytes of the file."""

    id_slot: int
    filename: str | None = None
    n_saved: int | None = None
    n_written: int | None = None
    n_restored: int | None = None
    n_read: int | None = None
    n_erased: int | None = None
    timings: SaveTimings | None = None


async def slot_action(site: Site, request: Request) -> Response:
    if not site.options.slot_files:
        raise SwitchedOffError("POST /slots/N is switched off: start the lead with --slot-save-path FOLDER")
    action = request.query_params.get("action", "")
    if action not in ACTIONS:
        raise RequestError(f"action is {short(action)}: it must be one of {', '.join(ACTIONS)}", "action")
    slot = _slot(site, request.path_params["id"])
    if action == "erase":
        return json_response({"id_slot": slot, "n_erased": await site.answerer.erase_slot(slot)})
    name = (await parse(SlotActionRequest, request)).filename
    if name is None:
        raise RequestError("filename is missing", "filename")
    if action == "save":
        done = await site.answerer.save_slot(slot, name)
        figures = {"n_saved": done.tokens, "n_written": done.bytes, "timings": {"save_ms": 1e3 * done.seconds}}
    else:
        done = await site.answerer.restore_slot(slot, name)
        figures = {"n_restored": done.tokens, "n_read": done.bytes, "timings": {"restore_ms": 1e3 * done.seconds}}
    return json_response({"id_slot": slot, "filename": name, **figures})


def _slot(site: Site, given: str) -> int:
    count = len(site.answerer.slots())
    # Nine digits are enough for any number of slots.
    if not (given.isascii() and given.isdecimal() and len(given) <= 9 and int(given) < count):
        raise RequestError(f"there is no slot {short(given)}: slots are 0 to {count - 1}", "id")
    return int(given)
