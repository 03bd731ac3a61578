"""Hints about packages name nothing that a stranger could put into a package index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from bench.harness.processes import ROOT
from duo.installing import Programs, command, programs


def test_the_command_names_a_folder_and_an_extra_that_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("lead", "transformers", "llamacpp", "grammar"):
        assert extra in extras and f"pip install '.[{extra}]'" in command(extra)


def test_no_hint_asks_an_index_for_duo() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.py")]
    for folder in ("docs", "examples", "duo", "lead", "back", "bench"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".js", ".html")]
    asked = re.compile(r"pip3? install (-\S+ )*[\"']?duo")
    assert [str(path) for path in files if asked.search(Path(path).read_text("utf-8"))] == []


def test_the_programs_are_called_as_they_are_installed() -> None:
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    found = programs("/usr/bin/duo-lead")
    assert {word for (word,) in found} == set(installed)
    assert programs("/x/lead/__main__.py") == Programs(
        ("python", "-m", "lead"), ("python", "-m", "back"), ("python", "chat.py")
    )
