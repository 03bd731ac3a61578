"""`python -m lead certs`: what it makes is good for TLS, and what is there is not lost."""

from __future__ import annotations

import asyncio
import ssl
import stat
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from back.tls import ClientTls, why
from duo.errors import FileError
from duo.program.tls_files import Files
from lead.backs.admission import Admission
from lead.security import certs
from tests.support.http import ScriptedAnswerer
from tests.support.locked import locked


def make(directory: Path, *arguments: str) -> int:
    return certs.main([str(directory), *arguments])


def files(directory: Path, name: str) -> Files:
    return Files(str(directory / f"{name}.pem"), str(directory / f"{name}-key.pem"), str(directory / "ca.pem"))


def handshake(lead: Files, back: ClientTls | None, host: str = "localhost") -> str | None:
    """What a back says of a TLS server with the lead's files, which asks for a certificate and greets as gRPC does."""

    async def greet(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    async def run() -> str | None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=lead.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(lead.cert, lead.key)
        async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context) as server:
            return await why(f"{host}:{server.sockets[0].getsockname()[1]}", back)

    return asyncio.run(run())


@pytest.mark.parametrize("days", ["0", "-3", "soon", "3651", "99999999999"])
def test_days_that_make_no_sense(tmp_path: Path, days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        certs.main([str(tmp_path), "--days", days])
    assert "--days: " in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "new" / "certs"
    assert make(directory, "--host", "lead.lan", "--host", "10.1.2.3", "--back", "mini", "--back", "old") == 0
    printed = capsys.readouterr().out
    assert f"python -m lead --host lead.lan --tls-cert {directory}/lead.pem" in printed
    assert "python -m back --lead lead.lan:5556 --token TOKEN --tls-ca ca.pem --tls-cert mini.pem" in printed
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.name.endswith("-key.pem") else 0o644)
    certificate = x509.load_pem_x509_certificate((directory / "lead.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "lead.lan"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"127.0.0.1", "10.1.2.3"} <= {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    lead = files(directory, "lead")
    for name in ("mini", "old"):
        files(directory, name).check()
        assert handshake(lead, ClientTls(files(directory, name))) is None
        assert handshake(lead, ClientTls(files(directory, name)), "127.0.0.1") is None


def names_in(path: Path) -> list[str]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_names_are_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither another --host nor --renew takes one away, and whom the certificate is for is said each time."""
    for arguments in (["--host", "a.lan"], ["--host", "10.1.2.3", "--host", "a.lan"], ["--renew"]):
        assert make(tmp_path, *arguments) == 0
    names = names_in(tmp_path / "lead.pem")
    assert names[:3] == ["localhost", "127.0.0.1", "::1"] and names[-2:] == ["a.lan", "10.1.2.3"]
    assert len(set(names)) == len(names)
    assert f", for {', '.join(names)}\n" in capsys.readouterr().out


def test_again(tmp_path: Path) -> None:
    """The authority stays; what is there stays, but for the lead's if it gets other hosts, or all that is renewed."""
    assert make(tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert make(tmp_path, "--back", "two") == 0
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert make(tmp_path, "--host", "other") == 0
    changed = {name for name, was in before.items() if (tmp_path / name).read_bytes() != was}
    assert changed == {"lead.pem", "lead-key.pem"}
    assert make(tmp_path, "--renew") == 0
    changed = {name for name, was in before.items() if (tmp_path / name).read_bytes() != was}
    assert changed == {"lead.pem", "lead-key.pem", "back.pem", "back-key.pem"}
    assert handshake(files(tmp_path, "lead"), ClientTls(files(tmp_path, "two"))) is None


@pytest.mark.parametrize(
    ("prepare", "arguments", "words"),
    [
        ({"ca.pem": "x"}, [], "ca-key.pem is not"),
        ({"ca.pem": "x", "ca-key.pem": "y"}, [], "not a certificate and its key"),
        ({}, ["--back", "../x"], "--back ../x"),
        ({}, ["--back", "ca"], "--back ca"),
        ({}, ["--back", "ca-key", "--renew"], "--back ca-key"),
        ({}, ["--host", "ä" * 70], "neither an address nor a name"),
        ({}, ["--host", "bad name"], "--host bad name: neither an address nor a name"),
        ({}, ["--host", "*"], "neither an address nor a name"),
        ({}, ["--host", ""], "neither an address nor a name"),
        ({}, ["--host", "lead:5556"], "neither an address nor a name"),
        ({}, ["--host", "lead-.lan"], "neither an address nor a name"),
        ({"d": "a file"}, [], "d: file exists"),
    ],
)
def test_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: dict[str, str], arguments: list[str], words: str
) -> None:
    """One line, and nothing is written over."""
    for name, text in prepare.items():
        (tmp_path / name).write_text(text)
    assert make(tmp_path / "d" if "d" in prepare else tmp_path, *arguments) == FileError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == prepare


def test_a_certificate_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(tmp_path) == 0
    (tmp_path / "lead.pem").write_text("x")
    assert make(tmp_path, "--renew") == FileError.exit_code
    assert "lead.pem: not a certificate in PEM; remove it" in capsys.readouterr().err


class TestWhatABackSays:
    """Each of the ways in which TLS does not come about has its line."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _made(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.here, cls.other, cls.old = (tmp_path_factory.mktemp(name) for name in ("here", "other", "old"))
        make(cls.here)
        make(cls.other)
        make(cls.old)
        certs.make(cls.old, [], ["back"], timedelta(days=-1), renew=True)

    here: Path
    other: Path
    old: Path

    def test_another_authority(self) -> None:
        said = handshake(files(self.here, "lead"), ClientTls(Files(ca=str(self.other / "ca.pem"))))
        assert said is not None
        assert f"its certificate is not signed by {self.other / 'ca.pem'}" in said

    def test_only_the_systems_authorities(self) -> None:
        said = handshake(files(self.here, "lead"), ClientTls(Files()))
        assert "an authority that this system trusts" in str(said)

    def test_another_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = handshake(files(self.here, "lead"), ClientTls(files(self.here, "back")), "127.0.0.2")
        assert said is None or "not for 127.0.0.2" in said

    def test_expired(self) -> None:
        said = handshake(files(self.old, "lead"), ClientTls(Files(ca=str(self.old / "ca.pem"))))
        assert "has expired" in str(said)
        with pytest.raises(FileError, match="expired on"):
            files(self.old, "lead").check()

    def test_no_certificate_of_the_back(self) -> None:
        said = handshake(files(self.here, "lead"), ClientTls(Files(ca=str(self.here / "ca.pem"))))
        assert "wants a certificate of this back" in str(said)

    def test_a_certificate_of_another_authority(self) -> None:
        theirs = files(self.other, "back")
        said = handshake(files(self.here, "lead"), ClientTls(Files(theirs.cert, theirs.key, str(self.here / "ca.pem"))))
        assert f"does not accept the certificate in {theirs.cert}" in str(said)

    def test_plain_text(self) -> None:
        assert "it speaks TLS" in str(handshake(files(self.here, "lead"), None))

    def test_tls_to_a_plain_port(self) -> None:
        async def run() -> tuple[str | None, str | None]:
            async def greet(_: object, writer: asyncio.StreamWriter) -> None:
                writer.write(b"\0\0\0\4\0\0\0\0\0")

            async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
                address = f"localhost:{server.sockets[0].getsockname()[1]}"
                return await why(address, ClientTls(Files())), await why(address, None)

        with_tls, without = asyncio.run(run())
        assert "does not speak TLS" in str(with_tls)
        assert without is None

    def test_the_port_for_clients(self) -> None:
        """With TLS or without; and the port for backs is not taken for it."""
        lead = files(self.here, "lead")
        for tls, back in ((None, None), (lead, None), (lead, ClientTls(files(self.here, "back")))):
            with locked(ScriptedAnswerer(), tls=tls) as url:
                said = asyncio.run(why(f"localhost:{urlsplit(url).port}", back))
            assert "perhaps a lead's port for clients" in str(said)

        async def backs() -> str | None:
            server = Admission().server(lambda *_: None)
            port = Admission().open(server, "127.0.0.1", 0)
            await server.start()
            try:
                return await why(f"localhost:{port}", None)
            finally:
                await server.stop(None)

        assert asyncio.run(backs()) is None

    def test_nobody_there(self) -> None:
        assert asyncio.run(why("localhost:1", ClientTls(Files()))) is None
        assert asyncio.run(why("192.168.1..20:1", ClientTls(Files()))) is None

    def test_authorities_of_the_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a file, in a directory, or nowhere: then not those that gRPC brings along."""
        authority = (self.here / "ca.pem").read_bytes()
        monkeypatch.setenv("SSL_CERT_FILE", str(self.here / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        assert ClientTls.of_the_system().split() == authority.split()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        with pytest.raises(FileError, match="names no authorities"):
            ClientTls(Files()).credentials()
        for name in ("one.pem", "one.0"):
            (tmp_path / name).write_bytes(authority)
        (tmp_path / "README").write_text("not one")
        assert ClientTls.of_the_system() == authority

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (lambda d: Files(cert=str(d / "lead.pem")), "--tls-cert needs --tls-key"),
            (lambda d: Files(key=str(d / "lead-key.pem")), "--tls-key needs --tls-cert"),
            (lambda d: Files(str(d / "lead.pem"), str(d / "back-key.pem")), "not that of the certificate"),
            (lambda d: Files(str(d / "lead-key.pem"), str(d / "lead-key.pem")), "not a certificate in PEM"),
            (lambda d: Files(str(d / "lead.pem"), str(d / "lead.pem")), "not a private key"),
            (lambda d: Files(ca=str(d / "nowhere")), "no such file"),
        ],
    )
    def test_files(self, given: object, words: str) -> None:
        with pytest.raises(FileError, match=words):
            given(self.here).check()  # type: ignore[operator]
