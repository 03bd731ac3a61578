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


NO_THREADS = "thread_unsupported_request"
"""The vendor's code for requests whose conversation the server cannot hold. Its clients then send all messages."""


class AnthropicErrorDetails(BaseModel):
    """For programs."""

    error_code: str
    unsupported: list[str]


class AnthropicErrorBody(BaseModel):
    """What went wrong. The message begins with the field at fault, if there is one."""

    type: ErrorKind
    message: str
    details: AnthropicErrorDetails | None = None


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
    error: dict[str, object] = {"type": kind, "message": message}
    if code == NO_THREADS:
        error["details"] = {"error_code": code, "unsupported": [param]}
    return {"type": "error", "error": error, "request_id": new_request_id()}
