"""Every error as the error object of the API that was called. Its clients turn it into their own exceptions.

The handlers cover what the lead raises, what the router finds, and what nobody expected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from duo.errors import BusyError, ContextError, DuoError
from lead.api import CLIENT_GONE
from lead.http.anthropic.errors import NO_THREADS, AnthropicError, anthropic_error
from lead.http.responses.failure import blank, failing

_RETRY_SECONDS = 1

dump = json.JSONEncoder(separators=(",", ":")).encode


class LoadingError(DuoError):
    """The model is still loading."""

    status = 503


class UnknownModelError(DuoError):
    """The lead serves no model of this name."""

    status = 404


class NotFoundError(DuoError):
    """What the request names is not there. `param` names the field, if it is one."""

    status = 404

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PreviousResponseError(DuoError):
    """The lead does not remember the response that the request goes on from."""

    status = 400
    param = "previous_response_id"


class AbsentError(DuoError):
    """Other servers have this endpoint, the lead does not. With 501 clients would ask again."""

    status = 404


class ThreadError(DuoError):
    """The request wants the lead to hold its conversation."""

    status = 400
    param = "thread"


class ModelUnavailableError(DuoError):
    """One of several models cannot answer now: it cannot be loaded, or its process has ended."""

    status = 503


class SwitchedOffError(DuoError):
    """The lead was started without this endpoint."""

    status = 501


class UnsupportedError(DuoError):
    """The model that is served cannot do this."""

    status = 501


class ErrorBody(BaseModel):
    """What went wrong; `param` names the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Body of every answer that is an error."""

    error: ErrorBody


_CODES: Mapping[type[DuoError], str] = {
    ContextError: "context_length_exceeded",  # OpenAI's; clients know it
    LoadingError: "model_loading",
    BusyError: "busy",
    UnknownModelError: "model_not_found",
    PreviousResponseError: "previous_response_not_found",  # OpenAI's
    NotFoundError: "not_found",
    AbsentError: "not_found",
    ThreadError: NO_THREADS,
    ModelUnavailableError: "model_unavailable",
}


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ErrorStyle(NamedTuple):
    """How an API writes an error.

    body: made of status, message, field at fault and OpenAI's code. shape: its model. ending: the last events of a
    stream that ends with such a body, made of the model's name, the body, and how many events the stream has.
    """

    shape: type[BaseModel]
    body: Callable[[int, str, str | None, str | None], Mapping[str, object]]
    ending: Callable[[str, Mapping[str, object], int], Sequence[Mapping[str, object]]] = lambda _, body, __: [body]


OPENAI = ErrorStyle(ErrorResponse, error_object)
RESPONSES = OPENAI._replace(ending=lambda model, body, count: failing(blank(model), body, count))
ANTHROPIC = ErrorStyle(AnthropicError, anthropic_error)
_STYLES = {"/v1/messages": ANTHROPIC, "/v1/responses": RESPONSES, "/responses": RESPONSES}


def style_of(path: str) -> ErrorStyle:
    """How errors are written for requests of this path, whether anything is there or not."""
    return next((style for start, style in _STYLES.items() if f"{path}/".startswith(f"{start}/")), OPENAI)


def named_event(event: Mapping[str, object]) -> str:
    """An event of a stream that is named after its type. One without a type has no name."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {dump(event)}\n\n"


def error_of(error: DuoError | None, style: ErrorStyle = OPENAI) -> Mapping[str, object]:
    """The error object for one of our own errors. None stands for one that nobody expected."""
    if error is None:
        return style.body(500, "the lead failed in a way it does not know: its log says more", None, None)
    return style.body(error.status, str(error), getattr(error, "param", None), _CODES.get(type(error)))


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of compact JSON."""
    return Response(dump(content), status, headers, media_type="application/json")


def error_response(status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Response:
    """The response with this error object. Clients look for the id of a request in a header too."""
    named = {"request-id": str(body["request_id"])} if "request_id" in body else {}
    return json_response(body, status, {**(headers or {}), **named})


def handle_errors(app: FastAPI) -> None:
    """Lets the app answer every error with an error object."""
    app.add_exception_handler(DuoError, _on_duo_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_duo_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DuoError)
    # A 503 passes, and clients that know the header try again.
    headers = {"Retry-After": str(_RETRY_SECONDS)} if error.status == 503 else None
    return error_response(error.status, error_of(error, _style(request)), headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the router finds, such as 404 and 405."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    if error.headers and "Allow" in error.headers:
        message += f", use {error.headers['Allow']}"
    return error_response(
        error.status_code, _style(request).body(error.status_code, message, None, None), error.headers
    )


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this response, and the server logs its traceback.
    return error_response(500, error_of(None, _style(request)))


def _style(request: Request) -> ErrorStyle:
    return style_of(request.url.path)
