"""The wheel works where the repository is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from bench.harness.processes import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import json, pathlib
import chat, back, lead, duo
import lead.http.page.routes
from duo import models
print(json.dumps([str(pathlib.Path(duo.__file__)), *(str(m) for m in (models.TARGET, models.DRAFT))]))
"""


def test_wheel(tmp_path: Path) -> None:
    """Built, installed in an environment of its own, it finds its models and its programs start."""
    source = tmp_path / "source"
    # A copy, because building leaves files behind that a later build would take in.
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    there = tmp_path / "there"
    # The dependencies are those of this environment: what is tested is the wheel and not the network.
    venv.create(there, with_pip=False, system_site_packages=False)
    site = next((there / "lib").glob("python*/site-packages"))
    own = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(own + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)],
        check=True,
        timeout=240,
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = str(there / "bin" / "python")

    def run(*arguments: str) -> str:
        return subprocess.run(
            [python, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment, timeout=120
        ).stdout

    code, *folders = (Path(path) for path in json.loads(run("-c", PROGRAM)))
    assert code.is_relative_to(there)
    for folder in folders:
        assert folder.is_relative_to(there)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            assert (folder / name).is_file()
    for module in ("lead", "back", "chat"):
        assert "usage:" in run("-m", module, "--help")
    load = "from duo.engines import *; from duo import models; load(str(models.DRAFT), 'auto', EngineOptions()).close()"
    run("-c", load)
    scripts = site / "bin"
    assert {"duo-lead", "duo-back", "duo-chat"} <= {path.name for path in scripts.iterdir()}
