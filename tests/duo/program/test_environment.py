"""Variables that libraries read when they are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.harness.processes import ROOT

USUAL = {"GRPC_VERBOSITY": "NONE", "OMP_WAIT_POLICY": "PASSIVE"}
GIVEN = {"GRPC_VERBOSITY": "DEBUG", "OMP_WAIT_POLICY": "ACTIVE"}
LOOK = """
import json, os, sys
class Look:
    found = {}
    def find_spec(self, name, *rest):
        if name == "grpc":
            self.found.update(os.environ)
look = Look()
sys.meta_path.insert(0, look)
import MODULE
print(json.dumps(look.found))
"""
"""Tells what the variables are when gRPC is loaded."""


@pytest.mark.parametrize("module", ["lead.backs.server", "back.link"])
@pytest.mark.parametrize(("given", "found"), [({}, USUAL), (GIVEN, GIVEN)])
def test_they_are_set_before_the_libraries_are_loaded(
    module: str, given: dict[str, str], found: dict[str, str]
) -> None:
    """Beside anything else, two spinning threads were ten times slower than one, on two cores."""
    environment = {name: value for name, value in os.environ.items() if name not in USUAL} | given
    done = subprocess.run(
        [sys.executable, "-c", LOOK.replace("MODULE", module)],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=True, timeout=60,
    )  # fmt: skip
    assert {name: json.loads(done.stdout).get(name) for name in found} == found
