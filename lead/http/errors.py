"""Every error as OpenAI's error object, which its clients turn into their own exceptions.

The handlers cover what the lead raises, what the router finds, and what nobody expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from duo.errors import BusyError, ContextError, DuoError
from lead.api import CLIENT_GONE

_RETRY_SECONDS = 1

dump = json.JSONEncoder(separators=(",", ":")).encode


class LoadingError(DuoError):
    """The model is still loading."""

    status = 503


class UnknownModelError(DuoError):
    """The lead serves one model, under another name."""

    status = 404


class ModelUnavailableError(DuoError):
    """One of several models cannot answer now: it cannot be loaded, or its process has ended."""

    status = 503


class SwitchedOffError(DuoError):
    """The lead was started without this endpoint."""

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
    ModelUnavailableError: "model_unavailable",
}


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(error: DuoError) -> dict[str, object]:
    """OpenAI's error object for one of our own errors."""
    return error_object(error.status, str(error), getattr(error, "param", None), _CODES.get(type(error)))


UNEXPECTED = error_object(500, "the lead failed in a way it does not know: its log says more")


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of compact JSON."""
    return Response(dump(content), status, headers, media_type="application/json")


def handle_errors(app: FastAPI) -> None:
    """Lets the app answer every error with OpenAI's object."""
    app.add_exception_handler(DuoError, _on_duo_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_duo_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DuoError)
    # A 503 passes, and clients that know the header try again.
    headers = {"Retry-After": str(_RETRY_SECONDS)} if error.status == 503 else None
    return json_response(error_of(error), error.status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the router finds, such as 404 and 405."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    if error.headers and "Allow" in error.headers:
        message += f", use {error.headers['Allow']}"
    return json_response(error_object(error.status_code, message), error.status_code, error.headers)


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this response, and the server logs its traceback.
    return json_response(UNEXPECTED, 500)
