"""The page at `/`: a chat and the state of the lead, in a browser.

The files in `static` are served as they are. They are public and hold no secret: the page calls the same API as every
other client, with the same key. `static/vendor` holds libraries, as their packages ship them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import Response

STATIC = "/static/"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def _found(folder: Traversable, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Files of the types above, with their paths in the folder."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _found(item, f"{path}{item.name}/")
        elif any(item.name.endswith(suffix) for suffix in _TYPES):
            yield path + item.name, item.read_bytes()


_CONTENTS = dict(_found(files("lead.http.page") / "static"))

FILES = {"/" if name == "index.html" else STATIC + name: name for name in sorted(_CONTENTS)}
"""Which file answers which path."""


def _import_map(html: bytes) -> str:
    """The source that a policy names for the import map of the page, the only script within it.

    Modules import each other by the names of their packages. The map says where these are, so the packages' files stay
    as they are.
    """
    (script,) = re.findall(rb'<script type="importmap">(.*?)</script>', html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


_HEADERS = {
    # No script from elsewhere and no other in the page, so a model's text cannot become a script.
    "Content-Security-Policy": f"default-src 'none'; script-src 'self' {_import_map(_CONTENTS['index.html'])}; "
    "style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


def _serve(path: str, name: str) -> None:
    content, media_type = _CONTENTS[name], _TYPES[name[name.rindex(".") :]]
    headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}

    @router.api_route(path, methods=["GET", "HEAD"])
    async def file(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)


for _path, _name in FILES.items():
    _serve(_path, _name)
