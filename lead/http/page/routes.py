"""The page at `/`: a chat and the state of the lead, in a browser.

The files in `static` are served as they are. They are public and hold no secret: the page calls the same API as every
other client, with the same key.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

STATIC = "/static/"

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    f"{STATIC}page.css": ("page.css", "text/css; charset=utf-8"),
    f"{STATIC}page.js": ("page.js", "text/javascript; charset=utf-8"),
    f"{STATIC}markdown.js": ("markdown.js", "text/javascript; charset=utf-8"),
    f"{STATIC}icon.svg": ("icon.svg", "image/svg+xml"),
}

_HEADERS = {
    # No script from elsewhere and none in the page, so a model's text cannot become a script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


def _serve(path: str, name: str, media_type: str) -> None:
    content = (files("lead.http.page") / "static" / name).read_bytes()

    @router.api_route(path, methods=["GET", "HEAD"])
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)


for _path, (_name, _type) in FILES.items():
    _serve(_path, _name, _type)
