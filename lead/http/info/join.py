"""GET /join: the commands with which other machines join this lead."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from lead.http.errors import json_response
from lead.http.site import Site
from lead.security.joining import Commands


class Join(BaseModel):
    """Both are null if no other machine can reach this lead.

    KEY and TOKEN in them stand for secrets. Those that the lead has made are on its terminal, and in
    `~/.config/duo/access.json` on its machine.
    """

    back: str | None
    chat: str | None


async def join(site: Site, request: Request) -> Response:
    return answer(site.options.joining)


def answer(joining: Commands | None) -> Response:
    """The commands as they are. They hold no secrets: a key is for asking, and with a token one sees what all ask."""
    return json_response(asdict(joining) if joining else {"back": None, "chat": None})
