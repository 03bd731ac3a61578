"""The command, and once, in small, the whole of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from tests.support.comparison import is_svg


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--prompts", str(tmp_path / "none.jsonl")]) == 3
    assert capsys.readouterr().err.startswith("error: cannot read ")


def test_an_unknown_workload_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--workload", "chat,poem"]) == 2
    assert capsys.readouterr().err.startswith("error: no workload is called 'poem': there are questions, rewrite, ")


@pytest.mark.slow
def test_a_small_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes: texts are the same, figures and pictures are there."""
    flags = [
        "--only",
        "none,ours,sync-remote",
        "--workload",
        "chat",
        "--questions",
        "1",
        "--tokens",
        "16",
        "--rounds",
        "1",
    ]
    flags += ["--questions", "1", "--temperature", "0.8", "--round-trip", "2", "--out", str(tmp_path)]
    assert main(["compare", *flags]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    answers = {answer["schedule"]: answer for answer in results["answers"]}
    assert set(answers) == {"none", "ours", "sync-remote"}
    assert all(answer["tokens"] == 16 and answer["seconds"] > 0 for answer in answers.values())
    assert answers["ours"]["same"] and answers["sync-remote"]["same"]
    assert "| **ours** |" in capsys.readouterr().out
    assert is_svg(tmp_path / "speedup.svg") and is_svg(tmp_path / "timeline.svg")
