"""A back that brings nothing rests within a hundred tokens, and everybody is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import requests
import torch
from safetensors.torch import load_file, save_file

from bench.harness.models import shipped
from bench.harness.processes import PATIENCE, BackProcess, LeadProcess
from duo.models.corpus import questions

MOST = 100
"""Tokens until it has to rest."""
ANSWER = 10
"""Tokens of an answer."""
QUESTIONS = questions(MOST // ANSWER, seed=3)


@pytest.fixture
def useless(tmp_path: Path) -> Path:
    """The shipped draft model, with other weights."""
    model = tmp_path / "useless"
    shutil.copytree(shipped("draft", "transformers"), model)
    weights = load_file(model / "model.safetensors")
    torch.manual_seed(0)
    noise = {name: torch.randn_like(tensor.float()).to(tensor.dtype) for name, tensor in weights.items()}
    save_file(noise, model / "model.safetensors", {"format": "pt"})
    return model


@pytest.mark.slow
def test_a_useless_back_rests_and_everybody_is_told(useless: Path) -> None:
    with LeadProcess("--threads", "1", "--metrics") as lead:
        lead.ready()
        with BackProcess(lead.back_port, "--threads", "1", "-m", str(useless)) as back:
            back.joined()
            tokens = 0
            while (said := lead.speedup()) is None or said["state"] != "resting":
                assert tokens < MOST
                # Another question each time: what was answered before needs neither target nor back.
                asked = QUESTIONS[tokens // ANSWER].text
                reply = lead.ask(asked, temperature=0, max_tokens=ANSWER, ignore_eos=True)
                tokens += ANSWER
            assert 0 < said["trial_in_tokens"] <= 48
            assert said["says"].startswith(f"resting: {said['alone']:.1f} tokens/s without backs, ")
            assert [back["state"] for back in lead.backs()] == ["resting"]
            assert reply.timings["speedup"]["times"] < 1.5
            figures = requests.get(f"{lead.url}/metrics", timeout=PATIENCE).text
            assert "duo_backs_resting 1.0" in figures
            lead.says("backs: resting: ")
            lead.says("as fast as without backs")
            back.says("resting: ")
            assert "; next trial in " in back.log
