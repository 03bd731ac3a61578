"""Models as `lead match` measures them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from duo.engines import measure
from duo.engines.measure import Measured
from lead.match import measured
from lead.match.flags import parser
from tests.support.hub import instead_of_the_hub
from tests.support.tiny_gguf import attention, decoder_tensors, write


def test_a_busy_machine_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster time of each width counts, and a start of a back remembers its own."""
    file = write(tmp_path / "m.gguf", "llama", decoder_tensors(), attention)
    busy = Measured({1: 0.5, 2: 1e-9, 8: 0.6})
    monkeypatch.setattr(measure, "remembered", lambda *given, **more: busy)
    args: Any = parser().parse_args(["target.gguf", str(file), "-t", "1", "-c", "128", "-fa", "off"])
    with measured.loaded_draft(args, str(file)) as draft:
        assert draft.seconds[1] < 0.5 and draft.seconds[2] == 1e-9 and draft.seconds[8] < 0.6
        assert draft.ranking > 0.0 and draft.engine.length(0) == 0


@pytest.mark.parametrize("which", ["target", "draft"])
def test_a_model_of_the_hub(which: Literal["target", "draft"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure", lambda *given, **more: Measured({1: 0.5}))
    (tmp_path / "repo").mkdir()
    write(tmp_path / "repo" / "m-Q4_0.gguf", "llama", decoder_tensors(), attention)
    args: Any = parser().parse_args(["x", "y", "-t", "1", "-c", "128", "-fa", "off"])
    with instead_of_the_hub(monkeypatch, tmp_path / "hub") as hub:
        hub.add("user/tiny", tmp_path / "repo")
        assert measured.curve(args, "user/tiny:Q4_0", which) == {1: 0.5}
        if which == "target":
            with measured.loaded_target(args, "user/tiny:Q4_0") as target:
                assert target.model_bytes == (tmp_path / "repo" / "m-Q4_0.gguf").stat().st_size
        assert len(hub.downloads("m-Q4_0.gguf")) == 1
