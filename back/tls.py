"""TLS on the back's side: what it shows and trusts, and why a connection failed.

gRPC says too little about a failed connection for a person to act on. So `why` then tries the handshake with Python's
own TLS, and HTTP, and puts what it finds into one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from duo.errors import FileError
from duo.program.tls_files import Files

PATIENCE = 5.0
"""Seconds for a handshake, and for the first bytes after it."""

_EXPIRED, _NOT_YET, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64
"""OpenSSL's X509_V_ERR_* for certificates with one thing wrong."""


@dataclass(frozen=True)
class ClientTls:
    """`files.ca` empty: trust the authorities of this system. `files.cert`: for a lead that asks for a certificate."""

    files: Files

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises FileError."""
        cert, key = (self.files.read("cert"), self.files.read("key")) if self.files.cert else (None, None)
        ca = self.files.read("ca") if self.files.ca else self.of_the_system()
        return grpc.ssl_channel_credentials(ca, key, cert)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.files.ca or None)
        if self.files.cert:
            context.load_cert_chain(self.files.cert, self.files.key)
        return context

    @staticmethod
    def of_the_system() -> bytes:
        """This system's authorities. gRPC's own list ignores what an administrator has added or removed.

        Raises FileError if there are none.
        """
        found = ssl.create_default_context().get_ca_certs(binary_form=True)
        pem = "".join(ssl.DER_cert_to_PEM_cert(one) for one in found).encode()
        # OpenSSL reads a directory of authorities only when it needs one, so it has not listed those.
        directory = ssl.get_default_verify_paths().capath
        if not pem and directory:
            with contextlib.suppress(OSError):
                files = sorted(path for path in Path(directory).iterdir() if path.is_file())
                found_there = dict.fromkeys(path.read_bytes() for path in files)  # most have two names there
                pem = b"\n".join(data for data in found_there if b"BEGIN CERTIFICATE" in data)
        if not pem:
            raise FileError("--tls: this system names no authorities that it trusts; give the lead's with --tls-ca")
        return pem


async def why(address: str, tls: ClientTls | None) -> str | None:
    """One line on why the back cannot talk to what listens there: TLS, or no port for backs. None for other reasons.

    Opens connections of its own and closes them again.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = tls.context() if tls else _unsafe()
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)
    except ssl.SSLError as error:
        return _of_handshake(error, host, tls) or await _of_plain(host, int(port))
    except ConnectionResetError:
        return _NO_TLS if tls else await _of_plain(host, int(port))
    except (OSError, TimeoutError, UnicodeError):  # UnicodeError: the name cannot be a host's
        return None
    with contextlib.closing(writer):
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            return _OTHER_PORT
        try:
            async with asyncio.timeout(PATIENCE):
                greeted = bool(await reader.read(1))
        except TimeoutError:
            greeted = True
        except OSError:  # an alert or the end: TLS 1.3 checks a client's certificate after the handshake
            greeted = False
    if tls is None:
        return _NEEDS_TLS
    if greeted:
        return None
    if not tls.files.cert:
        return "it wants a certificate of this back: give one with --tls-cert and --tls-key"
    return f"it does not accept the certificate in {tls.files.cert}: it must be signed by the lead's --tls-ca"


_NO_TLS = "it does not speak TLS: leave --tls and --tls-ca away, or start it with --tls-cert"
_NEEDS_TLS = "it speaks TLS: start this back with --tls-ca and the CA of the lead's certificate, or with --tls"
_OTHER_PORT = "it is no port for backs, but perhaps a lead's port for clients: the lead prints both when it starts"


async def _of_plain(host: str, port: int) -> str | None:
    """Try HTTP/1, which a gRPC server does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            with contextlib.closing(writer):
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                return _OTHER_PORT if await reader.read(5) == b"HTTP/" else None
    except (OSError, TimeoutError):
        return None


def _unsafe() -> ssl.SSLContext:
    """A context that only tells whether there is TLS at all. Nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _of_handshake(error: ssl.SSLError, host: str, tls: ClientTls | None) -> str | None:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return "its certificate has expired: make a new one there (python -m lead certs DIR --renew)"
        if error.verify_code == _NOT_YET:
            return "its certificate is not valid yet: do the clocks agree?"
        if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
            return f"its certificate is not for {host}: make one that is (python -m lead certs DIR --host {host})"
        by = tls.files.ca if tls and tls.files.ca else "an authority that this system trusts"
        return f"its certificate is not signed by {by} ({error.verify_message}): give its CA with --tls-ca"
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason or "EOF" in reason:
        return _NO_TLS if tls else None
    return f"TLS failed: {reason.lower().replace('_', ' ')}" if tls else _NEEDS_TLS
