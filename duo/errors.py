"""What can go wrong, as one tree of exceptions.

    DuoError
      ModelError      ContextError    RequestError   DeadEndError
      BusyError       StoppedError    FileError      AddressError
      ProtocolError
        RefusedError

Every message is one line that says what is wrong and what to do about it. A program that ends because of one prints it
on standard error and exits with its `exit_code`. The HTTP side answers with its `status`.
"""

from __future__ import annotations

from textwrap import shorten


class DuoError(Exception):
    """Something that the person at the keyboard, or the client, can mend."""

    exit_code = 1
    status = 500


class ModelError(DuoError):
    """The runtime cannot find, read or run a model."""


class ContextError(DuoError):
    """More tokens than the context holds."""

    status = 400


class RequestError(DuoError):
    """A request that cannot be answered as it is. `param` names the field at fault."""

    status = 400

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class DeadEndError(DuoError):
    """An answer cannot go on within its grammar. A guess that leads here was wrong."""

    status = 400


class BusyError(DuoError):
    """The lead's queue of requests is full."""

    status = 503


class StoppedError(DuoError):
    """The program ends in the middle of an answer."""

    status = 503


class ProtocolError(DuoError):
    """The other side of a stream does not speak the protocol. Only the stream ends."""


class RefusedError(ProtocolError):
    """The lead does not take this back. `reason` is a number of Refusal.Reason on the wire."""

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason


class FileError(DuoError):
    """A file cannot be read or written."""

    exit_code = 3


class AddressError(DuoError):
    """A port is in use, or an address does not belong to this machine."""

    exit_code = 4


def why_unread(error: OSError | UnicodeError) -> str:
    """Why a text file cannot be read, in words for a person."""
    if isinstance(error, UnicodeError):
        return "it is not text in UTF-8"
    return (error.strerror or str(error)).lower()


def first_line(error: object) -> str:
    """The first line of an error's message, short enough for a terminal."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return shorten(text, 200, placeholder="...")
