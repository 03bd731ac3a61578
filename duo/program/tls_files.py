"""Certificates and keys from files. They are checked before use, so that an error is one clear line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from duo.errors import FileError


@dataclass(frozen=True)
class Files:
    """Paths from --tls-cert, --tls-key and --tls-ca. Empty means not given."""

    cert: str = ""
    key: str = ""
    ca: str = ""

    def check(self) -> None:
        """Raises FileError if a file is missing or malformed, or if key and certificate do not match."""
        if bool(self.cert) != bool(self.key):
            given, lacking = ("--tls-cert", "--tls-key") if self.cert else ("--tls-key", "--tls-cert")
            raise FileError(f"{given} needs {lacking}: a certificate and its key belong together")
        if self.ca:
            self._certificate("ca")
        if not self.cert:
            return
        certificate = self._certificate("cert")
        try:
            key = load_pem_private_key(self.read("key"), None)
        except (ValueError, TypeError) as error:
            what = f"not a private key in PEM without a password ({_first(error)})"
            raise FileError(f"--tls-key {self.key}: {what}") from None
        form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
            raise FileError(f"--tls-key {self.key}: the key is not that of the certificate in {self.cert}")

    def read(self, which: str) -> bytes:
        """Bytes of the file `which`: cert, key or ca. Raises FileError."""
        path = getattr(self, which)
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise FileError(f"--tls-{which} {path}: {(error.strerror or str(error)).lower()}") from None

    def _certificate(self, which: str) -> x509.Certificate:
        """The first certificate in the file. Raises FileError, also if it has expired."""
        named = f"--tls-{which} {getattr(self, which)}"
        try:
            certificate = x509.load_pem_x509_certificates(self.read(which))[0]
        except ValueError as error:
            raise FileError(f"{named}: not a certificate in PEM ({_first(error)})") from None
        if certificate.not_valid_after_utc < datetime.now(UTC):
            day = certificate.not_valid_after_utc.date()
            raise FileError(f"{named}: expired on {day}; `python -m lead certs DIR --renew` makes a new one")
        return certificate


def _first(error: Exception) -> str:
    return (str(error).splitlines() or ["empty"])[0].split(".")[0]
