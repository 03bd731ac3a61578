"""TLS from the back's side: what it shows and trusts, and why a connection did not come about.

gRPC says of a failed handshake little that a person could act on. So where a connection fails, `why` tries the
handshake itself, with Python's own TLS, and puts what it finds into one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

import grpc

from duo.pem import Files

PATIENCE = 5.0
"""Seconds for a handshake, and for the first words after it."""

_EXPIRED, _NOT_YET, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64
"""OpenSSL's X509_V_ERR_* of certificates that would do otherwise."""


@dataclass(frozen=True)
class ClientTls:
    """`files.ca` empty: the authorities that this system trusts. `files.cert`: for a lead that asks for one."""

    files: Files

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises FileError."""
        cert, key = (self.files.read("cert"), self.files.read("key")) if self.files.cert else (None, None)
        ca = self.files.read("ca") if self.files.ca else self._of_the_system()
        return grpc.ssl_channel_credentials(ca, key, cert)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.files.ca or None)
        return self.files.load_into(context)

    @staticmethod
    def _of_the_system() -> bytes | None:
        """gRPC brings a list of its own, which knows nothing of what an administrator has added."""
        found = ssl.create_default_context().get_ca_certs(binary_form=True)
        return "".join(ssl.DER_cert_to_PEM_cert(one) for one in found).encode() or None


async def why(address: str, tls: ClientTls | None) -> str | None:
    """Why a lead that listens there does not get on with this back's TLS; None if that is not the reason.

    One line. Opens a connection of its own and closes it again.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = tls.context() if tls else _unsafe()
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)
            try:
                await reader.read(1)  # TLS 1.3 tells only now that it wants another certificate
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except ssl.SSLError as error:
        return _words(error, host, tls)
    except ConnectionResetError:
        return _NO_TLS if tls else None
    except (OSError, TimeoutError):
        return None
    return None if tls else _NEEDS_TLS


_NO_TLS = "it does not speak TLS: leave --tls and --tls-ca away, or start it with --tls-cert"
_NEEDS_TLS = "it speaks TLS: start this back with --tls-ca and the CA of the lead's certificate, or with --tls"


def _unsafe() -> ssl.SSLContext:
    """To find out whether there is TLS at all; nothing is said over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: ssl.SSLError, host: str, tls: ClientTls | None) -> str | None:
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
    if "ALERT" in reason:
        if tls is None:
            return _NEEDS_TLS
        if "CERTIFICATE_REQUIRED" in reason or ("HANDSHAKE_FAILURE" in reason and not tls.files.cert):
            return "it wants a certificate of this back: give one with --tls-cert and --tls-key"
        if "UNKNOWN_CA" in reason or "CERTIFICATE" in reason:
            return f"it does not accept the certificate in {tls.files.cert} ({reason.lower().replace('_', ' ')})"
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason or "EOF" in reason:
        return _NO_TLS if tls else None
    return f"TLS failed: {reason.lower().replace('_', ' ')}" if tls else _NEEDS_TLS
