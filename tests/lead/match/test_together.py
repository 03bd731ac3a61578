"""Two models that compute at the same time, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from duo.errors import ModelError
from lead.match import together
from lead.match.flags import parser
from tests.support.tiny_gguf import attention, decoder_tensors, write


def given(file: Path) -> Any:
    words = ["target.gguf", str(file), "-t", "1", "-c", "128", "-fa", "off", "--engine", "llamacpp"]
    return parser().parse_args(words)


@pytest.mark.slow
def test_both_are_measured_alone_and_beside_each_other(tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", "llama", decoder_tensors(), attention)
    found = together.measured(given(file), str(file), str(file))
    for times in (found.target, found.draft):
        assert {1, 2, 4} <= times.keys() and all(it >= 1.0 for it in times.values())


@pytest.mark.slow
def test_a_draft_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    missing = tmp_path / "none.gguf"
    with pytest.raises(ModelError, match=r"none\.gguf"):
        together.measured(given(missing), "target.gguf", str(missing))
