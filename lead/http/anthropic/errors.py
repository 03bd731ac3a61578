"""Anthropic's error object, which its clients turn into their own exceptions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel

ErrorKind = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "timeout_error",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
]

_KINDS: Mapping[int, ErrorKind] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
KINDS = get_args(ErrorKind)


class AnthropicErrorBody(BaseModel):
    """What went wrong. The message begins with the field at fault, if there is one."""

    type: ErrorKind
    message: str


class AnthropicError(BaseModel):
    """Body of every answer of this API that is an error."""

    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str


def new_request_id() -> str:
    """For the body of an error, and the header `request-id` of every answer."""
    return f"req_{secrets.token_hex(12)}"


def anthropic_error(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """See `AnthropicError`. `param`: the field at fault. `code`: OpenAI's code of the error."""
    if code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # agents look for these words, and shorten the conversation
    elif param and not message.startswith(param):
        message = f"{param}: {message}"
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": new_request_id()}
