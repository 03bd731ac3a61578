"""API keys for clients and tokens for backs. The lead makes them if they are needed and not given."""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from duo.errors import AddressError, FileError
from duo.program import values

SECRET_BYTES = 24
"""Random bytes in a new secret. It is printed in hexadecimal, because a dash would look like a flag."""


@dataclass(frozen=True)
class Access:
    """The API keys and tokens that the lead accepts. Empty: none is needed. `made`: secrets made at this start."""

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
    if args.insecure or is_loopback(args.host):
        return Access(keys, tokens)
    given = {*keys, *tokens}
    keys = keys or (secrets.token_hex(SECRET_BYTES),)
    tokens = tokens or (secrets.token_hex(SECRET_BYTES),)
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


def how_to_join(args: argparse.Namespace, access: Access, port: int, back_port: int) -> list[str]:
    """The commands for other machines. They hold the secrets only if these were made at this start."""
    host = values.in_url(reachable(args.host))
    key = access.keys[0] if access.keys and access.keys[0] in access.made else "KEY"
    token = access.tokens[0] if access.tokens and access.tokens[0] in access.made else "TOKEN"
    trust = " --tls-ca ca.pem" if args.tls_cert else ""
    identity = " --tls-cert back.pem --tls-key back-key.pem" if args.tls_ca else ""
    scheme = "https" if args.tls_cert else "http"
    back = f"python -m back --lead {host}:{back_port}" + (f" --token {token}" if access.tokens else "")
    chat = f"python chat.py {scheme}://{host}:{port}" + (f" --api-key {key}" if access.keys else "")
    return [f"to draft for it:  {back}{trust}{identity}", f"to talk to it:    {chat}{trust}"]


def reachable(host: str) -> str:
    """An address under which others reach a lead that listens on `host`."""
    try:
        if not ipaddress.ip_address(host or "0.0.0.0").is_unspecified:
            return host
    except ValueError:
        return host
    family, far = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        try:
            s.connect((far, 9))  # sends nothing, but makes the system choose an address
            return str(s.getsockname()[0])
        except OSError:
            return socket.gethostname()


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
        raise FileError(f"{flag} {path}: {(getattr(error, 'strerror', None) or str(error)).lower()}") from None
    if not found:
        raise FileError(f"{flag} {path}: the file is empty, where one secret per line should be")
    return found
