"""API keys for clients and tokens for backs. The lead makes and keeps those that are needed and not given."""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from duo.errors import AddressError, FileError, why_unread
from duo.program import values
from lead.security.kept import kept


@dataclass(frozen=True)
class Access:
    """The API keys and tokens that the lead accepts. Empty: none is needed. `made`: those that it has made itself."""

    keys: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    made: frozenset[str] = frozenset()


def matches(given: str, allowed: Iterable[str]) -> bool:
    """Whether `given` is one of `allowed`, in a time that does not depend on how much of it is right."""
    right = False
    for one in allowed:
        right |= hmac.compare_digest(given.encode("utf-8", "surrogateescape"), one.encode())
    return right


def access(args: argparse.Namespace) -> Access:
    """The secrets that the flags give. Without --insecure, an address that others can reach always gets both kinds.

    Raises FileError, AddressError.
    """
    keys = (*values.several(args.api_key or ()), *_of_file("--api-key-file", args.api_key_file))
    tokens = (*values.several(args.token or ()), *_of_file("--token-file", args.token_file))
    open_to_others = not (args.insecure or is_loopback(args.host))
    if args.new_secrets or (open_to_others and not (keys and tokens)):
        own = kept(args.new_secrets)
    if not open_to_others:
        return Access(keys, tokens)
    given = {*keys, *tokens}
    keys = keys or (own.key,)
    tokens = tokens or (own.token,)
    return Access(keys, tokens, frozenset({*keys, *tokens} - given))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host, at all of its addresses. Raises AddressError."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host or "0.0.0.0", None)}
    except UnicodeError:
        raise AddressError(f"--host {host}: it cannot be the name of a host") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AddressError(f"--host {host}: {reason}") from None
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def _of_file(flag: str, path: str) -> list[str]:
    """The secrets in a file, one per line. Raises FileError."""
    if not path:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        found = [values.secret(line.strip()) for line in lines if line.strip()]
    except argparse.ArgumentTypeError as error:
        raise FileError(f"{flag} {path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{flag} {path}: {why_unread(error)}") from None
    if not found:
        raise FileError(f"{flag} {path}: the file is empty, where one secret per line should be")
    return found
