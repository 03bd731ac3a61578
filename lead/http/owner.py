"""Who asks: a name that stands for the API key of a request, so that text of one key helps no other.

A lead of several models hands the name on in a header to the model's own lead, whose key is its own. A client that
sends this header divides what belongs to its key. It cannot reach what belongs to another one.
"""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers
from starlette.types import Scope

HEADER = "x-duo-owner"
_ENTRY = "duo.owner"


def mark(scope: Scope, key: str, headers: Headers) -> None:
    """The request was let in with this key. Empty: none is needed."""
    part = headers.get(HEADER, "")
    scope[_ENTRY] = hashlib.sha256(f"{key}\n{part}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def owner_of(scope: Scope) -> str:
    """Whose request this is. Empty without the guard that marks it, as in tests."""
    owner: str = scope.get(_ENTRY, "")
    return owner
