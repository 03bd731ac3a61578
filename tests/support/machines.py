"""Two machines on a network of their own: network namespaces where those can be made, else two loopback addresses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.harness.processes import PATIENCE

_ASK = """
import json, sys, requests
url, ca, headers, body = json.loads(sys.argv[1])
answer = requests.request("POST" if body else "GET", url, json=body, headers=headers, verify=ca or True, timeout=120)
print(json.dumps([answer.status_code, answer.json()]))
"""


@dataclass(frozen=True)
class Machine:
    """Where a program runs: its address, and the command under which it runs there."""

    address: str
    under: tuple[str, ...] = ()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run((*self.under, *command), capture_output=True, text=True, timeout=PATIENCE, check=False)

    def ask(
        self, url: str, body: Mapping[str, object] | None = None, ca: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of a request from here, or 0 and what is said if there is no connection."""
        done = self.run(sys.executable, "-c", _ASK, json.dumps([url, ca, headers or {}, body]))
        if done.returncode:
            return 0, done.stderr.splitlines()[-1]
        status, answer = json.loads(done.stdout)
        return status, answer


def _namespaces(*commands: str) -> bool:
    return all(subprocess.run(shlex.split(c), capture_output=True, check=False).returncode == 0 for c in commands)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """A strong one and a spare one."""
    a, b = (f"duo-{os.getpid()}-{which}" for which in "ab")
    net = f"10.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"
    try:
        if sys.platform == "linux" and _namespaces(
            f"ip netns add {a}",
            f"ip netns add {b}",
            f"ip -n {a} link add lan type veth peer name lan netns {b}",
            f"ip -n {a} addr add {net}.1/24 dev lan",
            f"ip -n {b} addr add {net}.2/24 dev lan",
            *(f"ip -n {ns} link set {device} up" for ns in (a, b) for device in ("lo", "lan")),
        ):
            into = ("ip", "netns", "exec")
            yield Machine(f"{net}.1", (*into, a)), Machine(f"{net}.2", (*into, b))
        else:
            yield Machine("127.0.0.2"), Machine("127.0.0.3")
    finally:
        _namespaces(f"ip netns del {a}")
        _namespaces(f"ip netns del {b}")
