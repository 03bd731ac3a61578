"""Slots that outlive a restart, and prompts that left their slot, with real leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from bench.harness.processes import BackProcess, LeadProcess

pytestmark = pytest.mark.slow

FIELDS: dict[str, Any] = {"temperature": 0.8, "seed": 7, "max_tokens": 30, "ignore_eos": True}
FIRST = "".join(f"The function number {i} of the module os returns a path. " for i in range(22))
OTHER = "".join(f"In line {i} a list of strings is sorted by its length. " for i in range(20))


def completed(lead: LeadProcess, prompt: str) -> tuple[str, int, int]:
    """Text, and how many of the prompt's tokens were cached and how many there are."""
    answer = requests.post(f"{lead.url}/v1/completions", json={**FIELDS, "prompt": prompt}, timeout=120).json()
    usage = answer["usage"]
    return answer["choices"][0]["text"], usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


def act(lead: LeadProcess, action: str, name: str = "one.slot") -> requests.Response:
    return requests.post(f"{lead.url}/slots/0?action={action}", json={"filename": name}, timeout=120)


def metric(lead: LeadProcess, name: str) -> float:
    lines = requests.get(f"{lead.url}/metrics", timeout=60).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"duo_{name} "))


@pytest.mark.parametrize("exact", ["off", "on"])
@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_a_conversation_goes_on_after_a_restart(engine: str, exact: str, tmp_path: Path) -> None:
    common = ("--engine", engine, "--threads", "1", "--exact", exact, "--parallel", "1", "--print-mode", "none")
    arguments = (*common, "--slot-save-path", str(tmp_path), "--metrics")
    with LeadProcess(*arguments, "--cache-ram", "256") as lead:
        lead.ready()
        first = FIRST + completed(lead, FIRST)[0]
        saved = act(lead, "save").json()
        assert saved["n_saved"] > 250 and saved["n_written"] == (tmp_path / "one.slot").stat().st_size
        longer = f"{first}\nThe next function"
        kept = completed(lead, longer)
        assert kept[1] >= 250
        # Other prompts take the slot, and the conversation comes back from memory.
        completed(lead, OTHER)
        assert metric(lead, "prompt_cache_bytes") > 0
        assert completed(lead, longer)[0] == kept[0]
        assert metric(lead, "prompt_cache_hits_total") == 1 and metric(lead, "prompt_cache_tokens_total") >= 250
        act(lead, "erase")
    with LeadProcess(*arguments, "--cache-ram", "0") as lead:
        lead.ready()
        restored = act(lead, "restore").json()
        assert restored["n_restored"] == saved["n_saved"]
        assert completed(lead, longer) == kept
        with BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1"):
            lead.has_backs(1)
            assert act(lead, "restore").status_code == 200
            assert completed(lead, longer) == kept
        damaged = (tmp_path / "one.slot").read_bytes()
        (tmp_path / "two.slot").write_bytes(damaged[: len(damaged) // 2])
        assert act(lead, "restore", "two.slot").status_code == 400
        assert completed(lead, longer)[0] == kept[0]
    # What was computed in one way is not taken by a lead that computes in another way.
    with LeadProcess(*arguments, "--exact", "on" if exact == "off" else "off") as lead:
        lead.ready()
        refused = act(lead, "restore")
        assert refused.status_code == 400 and "of another model" in refused.json()["error"]["message"]
