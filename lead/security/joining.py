"""The commands that other machines run to join a lead, and the addresses in them."""

from __future__ import annotations

import argparse
import ipaddress
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from zeroconf import get_all_addresses, get_all_addresses_v6  # type: ignore[attr-defined]

from duo.installing import programs
from duo.program import values
from duo.program.hub import ollama
from duo.program.hub.choice import is_repository
from duo.program.models import SHIPPED
from lead.security.credentials import Access, is_loopback

ANY_DRAFT = "auto"
"""As -m of a back: the best draft model on its machine."""


@dataclass(frozen=True)
class Commands:
    """Whole command lines: of a back, and of a chat."""

    back: str
    chat: str

    def lines(self) -> list[str]:
        return [f"to draft for it:  {self.back}", f"to talk to it:    {self.chat}"]


def joining(
    args: argparse.Namespace,
    access: Access,
    port: int,
    back_port: int,
    program: str | None = None,
    secrets: bool = False,
) -> Commands | None:
    """The commands for other machines; None if these cannot reach the lead.

    program: how the lead was started, as in sys.argv[0].
    secrets: whether secrets that the lead has made are in them. That is for its own terminal; others see KEY and TOKEN.
    """
    if is_loopback(args.host):
        return None
    host = values.in_url(reachable(args.host))
    made: frozenset[str] = access.made if secrets else frozenset()
    key = access.keys[0] if access.keys and access.keys[0] in made else "KEY"
    token = access.tokens[0] if access.tokens and access.tokens[0] in made else "TOKEN"
    trust = ("--tls-ca", "ca.pem") if args.tls_cert else ()
    identity = ("--tls-cert", "back.pem", "--tls-key", "back-key.pem") if args.tls_ca else ()
    _, back, chat = programs(sys.argv[0] if program is None else program)
    return Commands(
        shlex.join(
            [
                *(*back, *_draft(args), "--lead", f"{host}:{back_port}"),
                *(("--token", token) if access.tokens else ()),
                *(*trust, *identity),
            ]
        ),
        shlex.join(
            [
                *(*chat, http_address(args, port)),
                *(("--api-key", key) if access.keys else ()),
                *trust,
            ]
        ),
    )


def _draft(args: argparse.Namespace) -> tuple[str, ...]:
    """Flags that name a draft model which other machines can find too. None are needed for the shipped target."""
    if args.models is None and not args.model and not args.hf_repo:
        return ()
    if args.hf_repo_draft:
        return ("-hf", args.hf_repo_draft)
    draft = args.model_draft
    elsewhere = draft and draft != SHIPPED and not Path(draft).expanduser().exists()
    if elsewhere and (is_repository(draft) or ollama.parse(draft) is not None):
        return ("-m", draft)
    return ("-m", ANY_DRAFT)


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
        except OSError:  # there is no way to other networks
            return _own(six=":" in host) or socket.gethostname()


def _own(six: bool) -> str | None:
    """An address of this machine for others on its network. `six`: one of IPv6, if there is one.

    Whoever listens on all addresses of IPv6 hears IPv4 too. A link-local address of IPv6 is of use only with the name
    of the other machine's interface.
    """
    found = [each[0][0] for each in get_all_addresses_v6()] if six else []
    usable = [address for address in found if not ipaddress.ip_address(address).is_link_local]
    of_others = [each for each in (*usable, *get_all_addresses()) if not ipaddress.ip_address(each).is_loopback]
    return min(of_others, key=lambda each: ipaddress.ip_address(each).is_link_local, default=None)


def http_address(args: argparse.Namespace, port: int) -> str:
    """The lead's address for clients, as it can be opened in a browser."""
    return f"{'https' if args.tls_cert else 'http'}://{values.in_url(reachable(args.host))}:{port}"
