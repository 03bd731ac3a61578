"""The wheel works where the repository is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from bench.harness.processes import ROOT
from lead.http.page.routes import FILES

pytestmark = pytest.mark.slow

PROGRAM = """
import json, pathlib
import chat, back, lead, duo
import lead.http.page.routes
from duo import models
print(json.dumps([str(pathlib.Path(duo.__file__)), *(str(m) for m in (models.TARGET, models.DRAFT))]))
"""

SHIPPED = {"back", "chat.py", "duo", "lead"}
OF_LEADS = ("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client")
"""What the extra `lead` installs, and no other."""


def test_wheel(tmp_path: Path) -> None:
    """Built, installed in an environment of its own, it finds its models and its programs start."""
    source = tmp_path / "source"
    # A copy, because building leaves files behind that a later build would take in.
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {Path(name).parts[0] for name in names if ".dist-info" not in name} == SHIPPED
    assert {f"lead/http/page/static/{name}" for name in FILES.values()} <= set(names)
    libraries = {Path(name).parent.name for name in FILES.values() if name.startswith("vendor/")}
    licences = {Path(name).parent.name for name in names if ".dist-info/licenses/lead/" in name}
    assert licences == libraries
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


def run_without(lacking: Sequence[str], module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program as where these packages are not installed."""
    program = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({[*lacking]}))
sys.argv = {[module, *arguments]}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


@pytest.mark.parametrize("module", ["back", "chat"])
def test_a_back_and_a_chat_need_nothing_of_a_lead_s(module: str) -> None:
    done = run_without([*OF_LEADS, "llguidance"], module, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "llguidance"])
def test_a_lead_without_its_extra_says_so(package: str) -> None:
    done = run_without([package], "lead", "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: a lead needs {package}: pip install '.[lead]' in the folder of duo's sources\n"
