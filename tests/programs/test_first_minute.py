"""From an empty machine with Python to the first answer, with a back on a second machine: by the README alone.

At most five commands. Each stands in the README, or a program has printed it. Two things are not as on real machines.
The packages are here already, so pip only looks whether it could install what the README says. And the models are the
shipped ones, as GGUF files under the names that the README uses.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.harness.models import shipped
from bench.harness.processes import PATIENCE, ROOT, Program, wait_for
from tests.support.machines import Machine, two_machines

pytestmark = pytest.mark.slow

QUESTION = "What does os.path.join do?"
PARTS = ("back", "duo", "lead", "chat.py", "pyproject.toml", "README.md", "LICENSE")
"""What of a checkout an installation takes."""


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        if not both[0].under:
            pytest.skip("needs two machines that reach each other: network namespaces cannot be made here")
        yield both


def readme() -> list[str]:
    """The commands of its part about two machines, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, part = text.partition("\n## Two machines\n")
    part, _, _ = part.partition("\n## ")
    return re.findall(r"^    ((?:pip|python) .*)$", part, re.MULTILINE)


def checkout(folder: Path, **files: str) -> Path:
    """A fresh checkout with the user's own files in it, and an empty home beside it."""
    there = folder / "duo"
    there.mkdir(parents=True)
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, there / name)
    for name, source in files.items():
        shutil.copy(source, there / f"{name}.gguf")
    (folder / "home").mkdir()
    return there


def environment(there: Path) -> dict[str, str]:
    """That of a user who has never started duo."""
    home = there.parent / "home"
    folders = {"HOME": home, "XDG_CONFIG_HOME": home / ".config", "XDG_CACHE_HOME": home / ".cache"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DUO_", "PYTHONPATH"))}
    return {**kept, **{name: str(folder) for name, folder in folders.items()}, "COLUMNS": "200"}


class Started(Program):
    """A command of the README's or of a program's, in a checkout on one of the machines."""

    def __init__(self, command: str, there: Path, machine: Machine) -> None:
        python, dash_m, module, *arguments = shlex.split(command)
        assert (python, dash_m) == ("python", "-m")
        under = (*machine.under, "env", "-C", str(there))
        super().__init__(module, *arguments, environment={**environment(there), "PYTHONPATH": ""}, under=under)


def printed(program: Program, label: str) -> str:
    """The command that a program has printed after these words."""
    program.says(label)
    return next(line for line in program.log.splitlines() if line.startswith(label)).removeprefix(label).strip()


def test_five_commands(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    strong, spare = machines
    done = list[str]()
    first_install, start, second_install, joins, talks = readme()
    at_strong = checkout(tmp_path / "strong", target=shipped("target", "llamacpp"))
    at_spare = checkout(tmp_path / "spare", draft=shipped("draft", "llamacpp"))
    for command, there in ((first_install, at_strong), (second_install, at_spare)):
        pip, *words = shlex.split(command)
        assert pip == "pip"
        looks = ("--dry-run", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
        ended = subprocess.run(
            [sys.executable, "-m", "pip", *words, *looks], capture_output=True, text=True, cwd=there,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert "does not provide the extra" not in ended.stderr
        done.append(command)

    with ExitStack() as stack:
        lead = stack.enter_context(Started(start, at_strong, strong))
        done.append(start)
        join = printed(lead, "to draft for it:")
        assert re.sub(r"[\d.]+:5556|\b[0-9a-f]{48}\b", "_", join) == re.sub(r"[\d.]+:5556|TOKEN", "_", joins)
        # `auto` is for a small model on the spare machine. The README says that a file may stand there.
        join = join.replace("-m auto", "-m draft.gguf")
        lead.says(" for backs")
        assert f"http://{strong.address}:5555 for clients" in lead.log
        back = stack.enter_context(Started(join, at_spare, spare))
        done.append(join)
        back.says("joined the lead")

        talk = printed(lead, "to talk to it:")
        assert re.sub(r"[\d.]+:5555|\b[0-9a-f]{48}\b", "_", talk) == re.sub(r"[\d.]+:5555|KEY", "_", talks)
        python, *words = shlex.split(talk)
        assert python == "python"

        def asked() -> str:
            ended = subprocess.run(
                [*spare.under, sys.executable, *words], input=f"{QUESTION}\n", capture_output=True, text=True,
                cwd=at_spare, env=environment(at_spare), timeout=PATIENCE, check=False,
            )  # fmt: skip
            assert ended.returncode == 0, ended.stderr
            return ended.stdout

        assert len(asked()) > 20
        done.append(talk)
        assert len(done) <= 5

        url, _, key = words[1:4]

        def drafted() -> bool:
            status, seen = spare.ask(f"{url}/backs", headers={"Authorization": f"Bearer {key}"})
            assert status == 200, seen
            return sum(one["drafted"] for one in seen["data"]) > 0 or not asked()

        wait_for(drafted, "guesses of the back that the lead has verified")
        kept = at_strong.parent / "home" / ".config" / "duo" / "access.json"
        assert json.loads(kept.read_text())["api_key"] == key and str(kept) in lead.log

        # The same line is good for the next start: the back is still there, and comes back by itself.
        lead.stop()
        again = stack.enter_context(Started(start, at_strong, strong))
        back.says("joined the lead", 2)
        assert printed(again, "to draft for it:").replace("-m auto", "-m draft.gguf") == join
        assert "Traceback" not in lead.log + again.log + back.log


def test_an_installed_checkout_runs_in_the_folder_above_it(tmp_path: Path) -> None:
    """The checkout and the package have one name. Python took the checkout for the package, and failed."""
    there = checkout(tmp_path)
    scripts = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(scripts)], check=True, timeout=PATIENCE)
    site = next((scripts / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    python = str(scripts / "bin" / "python")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-e", str(there))
    subprocess.run([python, *install], check=True, timeout=PATIENCE, capture_output=True)
    for command in (("-m", "lead"), ("-m", "back"), (str(scripts / "bin" / "duo-lead"),)):
        ended = subprocess.run(
            [python, *command, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE,
            env=environment(there), check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith("duo ")
