"""`python -m lead certs DIR --host NAME ...`: a private authority, and its certificates for the lead and the backs.

DIR gets ca.pem for every machine, and ca-key.pem, which stays there. The lead gets lead.pem and lead-key.pem, each
--back NAME.pem and NAME-key.pem. An existing authority is used again and never overwritten. A new lead.pem keeps the
names of the old one, unless that file was deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import re
import socket
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from duo.errors import DuoError, FileError
from duo.program import values

CA_DAYS, DAYS = 3650, 820
"""Days of validity, of the authority and of its certificates. Apple's systems accept at most 825 days."""
EARLIER = timedelta(hours=1)
"""Validity starts this much in the past, because clocks differ."""

_ALWAYS = ("localhost", "127.0.0.1", "::1")

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="lead certs", description=__doc__.split("\n")[0] if __doc__ else None)
    p.add_argument("directory", type=Path, metavar="DIR", help="folder for the certificates")
    p.add_argument(
        "--host", action="append", default=[], metavar="NAME_OR_IP",
        help="name or address by which others reach the lead; may be given several times. This machine's name and "
        "localhost are always in the certificate",
    )  # fmt: skip
    p.add_argument(
        "--back",
        action="append",
        default=[],
        metavar="NAME",
        help="name of a back that gets a certificate (default: back)",
    )
    p.add_argument("--days", type=_days, default=DAYS, help=f"days for which they are valid (default: {DAYS})")
    p.add_argument("--renew", action="store_true", help="replace certificates that are there already")
    return p


def _days(text: str) -> int:
    """For argparse: from one day to those of the authority."""
    days = values.positive(text)
    if days > CA_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days up to {CA_DAYS}, those of the authority")
    return days


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    try:
        make(args.directory, args.host, args.back or ["back"], timedelta(days=args.days), args.renew)
    except DuoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make(directory: Path, hosts: Sequence[str], backs: Sequence[str], valid: timedelta, renew: bool) -> None:
    """Make the missing certificates, and print how to use them. New hosts also replace that of the lead.

    Raises FileError.
    """
    for name in backs:
        if name in ("ca", "lead") or name.endswith("-key") or not name.replace("-", "").replace("_", "").isalnum():
            raise FileError(
                f"--back {name}: letters, digits, - and _ make a name, but not ca, lead or one that ends in -key"
            )
    added = [_general(host) for host in hosts]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        authority = _Authority.at(directory)
        lead = directory / "lead.pem"
        if hosts or renew or not lead.exists():
            always = [*map(_general, _ALWAYS), *_own_name()]
            names = list(dict.fromkeys((*always, *_names_in(lead), *added)))
            authority.sign("lead", valid, ExtendedKeyUsageOID.SERVER_AUTH, names)
        for name in backs:
            if renew or not (directory / f"{name}.pem").exists():
                authority.sign(name, valid, ExtendedKeyUsageOID.CLIENT_AUTH, [])
    except OSError as error:
        raise FileError(f"{error.filename or directory}: {(error.strerror or str(error)).lower()}") from None
    host = hosts[0] if hosts else socket.gethostname()
    there = f"{directory}{os.sep}"
    own = f"--tls-cert {backs[0]}.pem --tls-key {backs[0]}-key.pem"
    print(
        f"""
The lead:
    python -m lead --host {host} --tls-cert {there}lead.pem --tls-key {there}lead-key.pem --tls-ca {there}ca.pem
A back, with ca.pem, {backs[0]}.pem and {backs[0]}-key.pem copied to its machine:
    python -m back --lead {host}:5556 --token TOKEN --tls-ca ca.pem {own}
A chat, with ca.pem copied to its machine:
    python chat.py https://{host}:5555 --api-key KEY --tls-ca ca.pem
Without --tls-ca the lead asks backs for no certificate. Keep {there}ca-key.pem to yourself."""
    )


class _Authority:
    def __init__(self, directory: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._directory = directory
        self._certificate = certificate
        self._key = key

    @classmethod
    def at(cls, directory: Path) -> _Authority:
        """The authority in the directory, or a new one. Raises FileError."""
        cert_file, key_file = directory / "ca.pem", directory / "ca-key.pem"
        if cert_file.exists() != key_file.exists():
            there, missing = (cert_file, key_file) if cert_file.exists() else (key_file, cert_file)
            raise FileError(f"{there} is there but {missing} is not: choose another directory, or bring it back")
        if not cert_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            name = _name(f"duo CA of {socket.gethostname()}"[:64])
            certificate = (
                _begun(name, name, key.public_key(), timedelta(days=CA_DAYS))
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(signs_certificates=True), critical=True)
                .sign(key, hashes.SHA256())
            )
            _write(directory, "ca", certificate, key, [])
            return cls(directory, certificate, key)
        try:
            found = serialization.load_pem_private_key(key_file.read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
        except (ValueError, TypeError):
            raise FileError(f"{cert_file} and {key_file}: not a certificate and its key in PEM") from None
        if not isinstance(found, ec.EllipticCurvePrivateKey) or found.public_key() != certificate.public_key():
            raise FileError(f"{key_file}: not the key of {cert_file}")
        print(f"uses {cert_file}")
        return cls(directory, certificate, found)

    def sign(
        self, name: str, valid: timedelta, purpose: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]
    ) -> None:
        """Write a new key and its certificate to the directory."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _begun(_name(name), self._certificate.subject, key.public_key(), valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(_key_of(self._certificate), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        _write(self._directory, name, builder.sign(self._key, hashes.SHA256()), key, names)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER if valid > timedelta() else now + valid - EARLIER)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_of(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(host: str) -> x509.IPAddress | x509.DNSName:
    """The address or name under which a client connects. Raises FileError."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        name = host.removesuffix(".").encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _HOST_NAME.fullmatch(name.removeprefix("*.")):
        raise FileError(f"--host {host}: neither an address nor a name")
    return x509.DNSName(name)


def _own_name() -> Sequence[x509.GeneralName]:
    """The name of this machine, or nothing if it is not valid."""
    try:
        return [_general(socket.gethostname())]
    except FileError:
        return []


def _names_in(path: Path) -> Sequence[x509.GeneralName]:
    """The names in a certificate; none if there is no file. Raises FileError."""
    if not path.exists():
        return ()
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()
    except ValueError:
        raise FileError(f"{path}: not a certificate in PEM; remove it, and a new one is made") from None


def _write(
    directory: Path,
    name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
) -> None:
    """Write key and certificate. Only the owner can ever read the key, and no file is left incomplete."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _put(directory / f"{name}-key.pem", private, 0o600)
    _put(directory / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    until = certificate.not_valid_after_utc.date()
    whom = f", for {', '.join(str(one.value) for one in names)}" if names else ""
    print(f"made {directory / name}.pem, valid until {until}{whom}")


def _put(path: Path, data: bytes, mode: int) -> None:
    handle, new = tempfile.mkstemp(dir=path.parent)  # only the owner can read it
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        Path(new).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(new).unlink()
        raise
