"""The generated protobuf code is committed, so that a spare device needs no compiler; this says when it is old."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = "python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. duo/v1/duo.proto"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    arguments = [part.replace("_out=.", f"_out={out}") for part in shlex.split(COMMAND)[1:]]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    return out


@pytest.mark.parametrize("name", ["duo_pb2.py", "duo_pb2.pyi"])
def test_generated_code_is_fresh(fresh: Path, name: str) -> None:
    committed, generated = ROOT / "duo" / "v1" / name, fresh / "duo" / "v1" / name
    if committed.read_text() != generated.read_text():
        pytest.fail(f"duo/v1/{name} is older than proto/duo/v1/duo.proto; run: {COMMAND}", pytrace=False)


def test_nothing_else_is_generated(fresh: Path) -> None:
    generated = {path.name for path in (fresh / "duo" / "v1").iterdir()}
    assert generated == {"duo_pb2.py", "duo_pb2.pyi"}
    assert {path.name for path in (ROOT / "duo" / "v1").glob("*_pb2*")} == generated
