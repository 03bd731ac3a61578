"""Two machines on a LAN: who has the right token, key and certificate comes in, everyone else is told why not.

The machines are network namespaces where those can be made, else two loopback addresses.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.harness.models import shipped
from bench.harness.processes import PATIENCE, ROOT, Program, free_port, wait_for
from lead.security import certs
from tests.support.machines import Machine, two_machines

pytestmark = pytest.mark.slow

QUESTION = "What does os.path.join do?"
KEY, TOKEN = "the-key", "the-token"


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        yield both


@pytest.fixture(scope="module")
def calibration(machines: tuple[Machine, Machine], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificates for these machines, and of an authority that nobody here knows."""
    ours, others = (tmp_path_factory.mktemp(name) for name in ("ours", "others"))
    assert certs.main([str(ours), "--host", machines[0].address]) == 0
    assert certs.main([str(others), "--host", machines[0].address]) == 0
    return ours, others


def tls(directory: Path, name: str) -> list[str]:
    return ["--tls-cert", str(directory / f"{name}.pem"), "--tls-key", str(directory / f"{name}-key.pem")]


class Lead(Program):
    """A lead on the strong machine, on llama.cpp, which loads quickly."""

    def __init__(self, machine: Machine, *arguments: str, **environment: str) -> None:
        self.port, self.back_port = free_port(), free_port()
        self.address = f"{machine.address}:{self.back_port}"
        model = shipped("target", "llamacpp")
        super().__init__(
            "lead", "-m", model, "--threads", "1", "--host", machine.address, "--port", str(self.port),
            "--back-port", str(self.back_port), *arguments, environment=environment, under=machine.under,
        )  # fmt: skip

    def url(self, machine: Machine, scheme: str = "http") -> str:
        return f"{scheme}://{machine.address}:{self.port}"


def back(machine: Machine, lead: str, name: str, *arguments: str) -> Program:
    model = shipped("draft", "llamacpp")
    return Program(
        "back", "-m", model, "--threads", "1", "--lead", lead, "--name", name, *arguments, under=machine.under
    )


def test_tls_both_ways_and_a_token(machines: tuple[Machine, Machine], calibration: tuple[Path, Path]) -> None:
    """What is wrong is refused with its line, while the right back drafts on and answers stay the same."""
    strong, spare = machines
    ours, others = calibration
    ca, other_ca = ["--tls-ca", str(ours / "ca.pem")], ["--tls-ca", str(others / "ca.pem")]
    right = ["--token", TOKEN, *ca, *tls(ours, "back")]
    wrong: Sequence[tuple[str, Sequence[str], str]] = (
        ("token", ["--token", "guessed", *ca, *tls(ours, "back")], "refused by the lead at .*: the token is wrong"),
        ("no-token", [*ca, *tls(ours, "back")], "refused by the lead at .*: no token given"),
        ("authority", ["--token", TOKEN, *other_ca, *tls(ours, "back")], "its certificate is not signed by .*others"),
        ("certificate", ["--token", TOKEN, *ca, *tls(others, "back")], "does not accept the certificate in .*others"),
        ("no-certificate", ["--token", TOKEN, *ca], "wants a certificate of this back"),
        ("plain", ["--token", TOKEN], "it speaks TLS"),
    )
    with ExitStack() as stack:
        lead = stack.enter_context(
            Lead(
                strong,
                "--token",
                TOKEN,
                "--api-key",
                KEY,
                *tls(ours, "lead"),
                *ca,
                "--announce",
                "--policy",
                "chain",
            )
        )
        lead.says(" for backs")
        assert lead.url(strong, "https") in lead.log
        good = stack.enter_context(back(spare, lead.address, "right", *right))
        good.says("joined the lead")
        with_key = {"ca": ca[1], "headers": {"Authorization": f"Bearer {KEY}"}}
        body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 300}
        url = f"{lead.url(strong, 'https')}/v1/chat/completions"

        def text() -> str:
            status, answer = spare.ask(url, body, **with_key)  # type: ignore[arg-type]
            assert status == 200, answer
            return str(answer["choices"][0]["message"]["content"])

        reference, texts, done = text(), [], threading.Event()

        def ask_on() -> None:
            while not done.is_set():
                texts.append(text())

        asking = threading.Thread(target=ask_on)
        asking.start()
        stack.callback(asking.join)
        stack.callback(done.set)
        for name, arguments, words in wrong:
            with back(spare, lead.address, name, *arguments) as refused:
                wait_for(lambda log=refused, w=words: bool(re.search(w, log.log)), f"{words!r} said by {name}")  # type: ignore[misc]
                refused.says("; trying again")
                assert refused.process.poll() is None
                assert "joined" not in refused.log
                assert "Traceback" not in refused.log
                assert "ssl_transport_security" not in refused.log  # gRPC's own words
        for port in (lead.port, lead.back_port):
            status, said = spare.ask(f"http://{strong.address}:{port}/health")
            assert status == 0, said
        status, said = spare.ask(url, body, ca=other_ca[1])
        assert (status, "CERTIFICATE_VERIFY_FAILED" in said) == (0, True)
        assert spare.ask(url, body, ca=ca[1])[0] == 401
        assert spare.ask(f"{lead.url(strong, 'https')}/health", ca=ca[1]) == (200, {"status": "ok"})
        done.set()
        asking.join()
        assert texts
        assert set(texts) == {reference}
        status, seen = spare.ask(f"{lead.url(strong, 'https')}/backs", **with_key)  # type: ignore[arg-type]
        assert [(one["name"], one["drafted"] > 0) for one in seen["data"]] == [("right", True)]
        assert good.log.count("joined the lead") == 1
        assert lead.log.count("refused: the token is wrong") == 1
        assert lead.log.count("refused: no token given") == 1
        assert "Traceback" not in lead.log + good.log
        assert "ssl_transport_security" not in lead.log
        for secret in (KEY, TOKEN):
            assert secret not in lead.log


def test_what_is_made_is_printed_and_opens(machines: tuple[Machine, Machine]) -> None:
    """The lines that the lead prints are the set-up of the other machine."""
    strong, spare = machines
    if not strong.under:
        pytest.skip("needs an address that is not a loopback address: network namespaces")
    with Lead(strong) as lead:
        lead.says(" for backs")
        joining = next(line for line in lead.log.splitlines() if line.startswith("to draft for it:"))
        talking = next(line for line in lead.log.splitlines() if line.startswith("to talk to it:"))
        _, _, command = joining.replace("-m auto", f"-m {shipped('draft', 'llamacpp')}").partition("python -m back ")
        with Program("back", *shlex.split(command), "--threads", "1", under=spare.under) as joined:
            joined.says("joined the lead")
        url, _, key = talking.split()[-3:]
        assert url == lead.url(strong)
        assert spare.ask(f"{url}/v1/models")[0] == 401
        assert spare.ask(f"{url}/v1/models", headers={"X-Api-Key": key})[0] == 200
        status, commands = strong.ask(f"{url}/join", headers={"X-Api-Key": key})
        assert status == 200 and "--token TOKEN" in commands["back"] and commands["chat"].endswith("--api-key KEY")
        assert "without TLS" in lead.log


def test_insecure_is_said_aloud(machines: tuple[Machine, Machine]) -> None:
    strong, spare = machines
    with Lead(strong, "--insecure") as lead:
        lead.says(" for backs")
        assert ("WARNING: --insecure" in lead.log) == bool(strong.under)
        assert spare.ask(f"{lead.url(strong)}/v1/models")[0] == 200
        with back(spare, lead.address, "any", "--tls") as refused:
            refused.says("it does not speak TLS")
        with back(spare, lead.address, "any", "--token", "needless") as joined:
            joined.says("joined the lead")


def test_a_back_that_says_too_much(machines: tuple[Machine, Machine]) -> None:
    """Its guesses are dropped; it stays, and the answer is what it is without it."""
    strong, spare = machines
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 100}
    with Lead(strong, "--insecure", "--max-guesses", "1") as lead:
        lead.says(" for backs")
        url = f"{lead.url(strong)}/v1/chat/completions"
        alone = spare.ask(url, body)[1]["choices"]
        with back(spare, lead.address, "talker") as talker:
            talker.says("joined the lead")
            assert spare.ask(url, body)[1]["choices"] == alone
            lead.says("back talker guesses more than --max-guesses 1: the rest is dropped")
            assert [one["name"] for one in spare.ask(f"{lead.url(strong)}/backs")[1]["data"]] == ["talker"]


def test_found_by_its_announcement(machines: tuple[Machine, Machine]) -> None:
    """And found again where it is started anew, with other ports. The secrets come from the environment."""
    strong, spare = machines
    if not strong.under:
        pytest.skip("needs a network of its own: network namespaces")
    with ExitStack() as stack:
        for time in (1, 2):
            lead = stack.enter_context(Lead(strong, "--announce", DUO_LEAD_TOKEN=TOKEN, DUO_LEAD_API_KEY=KEY))
            lead.says("announced as")
            if time == 1:
                finder = stack.enter_context(back(spare, "auto", "finder", "--token", TOKEN))
            finder.says("joined the lead", time)
            assert f" at {lead.address} " in finder.log
            lead.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lead", "--tls-cert", "none.pem"], "--tls-cert needs --tls-key"),
        (["lead", "--tls-cert", "none.pem", "--tls-key", "none.pem"], "--tls-cert none.pem: no such file"),
        (["lead", "--tls-ca", str(ROOT / "README.md")], "not a certificate in PEM"),
        (["lead", "--api-key-file", "none.txt"], "--api-key-file none.txt: no such file"),
        (["lead", "--token-file", os.devnull], "the file is empty"),
        (["lead", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: "),
        (["back", "--token-file", os.devnull], "a key or token is ASCII"),
        (["back", "--token", "ä"], "a key or token is ASCII"),
        (["back", "--tls-ca", "none.pem"], "--tls-ca none.pem: no such file"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_loaded(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert done.returncode in (2, 3, 4)
    (line,) = done.stderr.splitlines()
    assert "error: " in line
    assert words in line
