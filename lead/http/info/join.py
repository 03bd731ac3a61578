"""GET /join: the commands with which other machines join this lead."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from lead.http.errors import json_response
from lead.http.site import Site
from lead.security.joining import Commands, Joining

FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
"""Headers of a proxy. Whoever asked it may be anywhere."""


class Join(BaseModel):
    """Both are null if no other machine can reach this lead.

    Secrets that the lead has made are in them for a client on the lead's own machine. Others see KEY and TOKEN.
    """

    back: str | None
    chat: str | None


async def join(site: Site, request: Request) -> Response:
    return answer(site.options.joining, request)


def answer(joining: Joining | None, request: Request) -> Response:
    commands: Commands | None = None
    if joining is not None:
        commands = joining.whole if _from_here(request) else joining.without_secrets
    return json_response(asdict(commands) if commands else {"back": None, "chat": None})


def _from_here(request: Request) -> bool:
    """Whether this machine asks. A key is for talking. With a token, a back sees what everybody asks."""
    client, server = request.scope.get("client"), request.scope.get("server")
    return bool(client and server and client[0] == server[0]) and not any(name in request.headers for name in FORWARDED)
