"""The address of a lead, as a person gives it to a back."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import re

from duo.program import values

AUTO = "auto"
"""Instead of an address: look for the lead on this network. Instead of a model: look for one that suits the lead."""
BACK_PORT = "5556"

_ADDRESS = re.compile(r"([\w.-]+|\[[^\[\]]*:[^\[\]]*\])(?::(\d+))?/?")
"""The host, which is in brackets if it is of IPv6, and the port."""


def address(text: str) -> str:
    """Parse HOST, HOST:PORT or auto. An address of IPv6 alone gets its brackets. Raises argparse.ArgumentTypeError."""
    if text == AUTO:
        return text
    scheme, separator, _ = text.partition("://")
    if separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT: leave {scheme}:// away, and name the back port")
    with contextlib.suppress(ValueError):
        text = f"[{ipaddress.IPv6Address(text)}]"
    with contextlib.suppress(ValueError, argparse.ArgumentTypeError):
        found = _ADDRESS.fullmatch(text.strip())
        if found and (port := values.port(found[2] or BACK_PORT)):
            found[1].encode("idna")  # raises UnicodeError for what cannot be a name
            return f"{found[1]}:{port}"
    raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
