"""Who competes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.compare import lineup
from bench.compare.names import LABELS


def test_who_competes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DUO_LLAMA_SERVER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names, left_out = lineup.chosen(None, False, "llamacpp")
    assert "llama-server" not in names and "no llama-server" in left_out[0]
    assert "assisted" not in names and "random-back" not in names
    assert lineup.chosen("ours", False, "transformers") == (["none", "ours"], [])
    assert "late-back" in lineup.chosen(None, True, "transformers")[0]
    with pytest.raises(lineup.UnknownEntrantError, match="'ous'"):
        lineup.chosen("none,ous", False, "llamacpp")
    assert lineup.chosen("ours,sync,memory", False, "transformers", with_draft=False) == (
        ["none", "ours", "memory"],
        ["synchronous, both on the target's core is left out: there is no draft model"],
    )
    assert {*lineup.LAYOUTS, *lineup.MAKERS} == set(LABELS)


def test_groups_fit_into_memory() -> None:
    names = ["none", "ours", "chain", "sync", "both-cores"]
    sizes = {"none": 2.0, "ours": 2.0, "chain": 2.0, "sync": 0.0, "both-cores": 2.0}
    assert lineup.groups(names, sizes, 100) == [names]
    assert lineup.groups(names, sizes, 6) == [["none", "ours", "chain", "sync"], ["none", "ours", "both-cores"]]
    assert lineup.groups(["none"], sizes, 1) == [["none"]]
