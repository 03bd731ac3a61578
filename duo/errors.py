"""What can go wrong, as one tree of exceptions.

Every message is one line that says what is wrong and what to do about it. A program that ends because of one prints
it on standard error and exits with its `exit_code`; the HTTP side answers with its `status`.
"""

from __future__ import annotations


class DuoError(Exception):
    """The root of the tree: something the person at the keyboard, or the client, can mend."""

    exit_code = 1
    status = 500


class ModelError(DuoError):
    """A model cannot be found, read or run by the runtime that was asked for."""


class ContextError(DuoError):
    """More tokens than the context holds."""

    status = 400


class RequestError(DuoError):
    """A request that cannot be answered as it stands; `param` names the field at fault."""

    status = 400

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class DeadEndError(DuoError):
    """An answer that must follow a grammar can go no further. Of a guess it means that it was wrong."""

    status = 400


class BusyError(DuoError):
    """The lead has as many requests waiting as it takes."""

    status = 503


class StoppedError(DuoError):
    """The program is ending in the middle of an answer."""

    status = 503


class ProtocolError(DuoError):
    """The other side of a stream does not speak the protocol; the stream ends, nothing else does."""


class RefusedError(ProtocolError):
    """The lead will not work with this back. `reason` is the number of the wire's Refusal.Reason."""

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason


class FileError(DuoError):
    """A file that was asked for cannot be read or written."""

    exit_code = 3


class AddressError(DuoError):
    """A port is in use, or an address is not this machine's."""

    exit_code = 4
