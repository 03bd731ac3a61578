"""Code in the middle with real leads, whose tiny models have the marks for it: the same text with a back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
import transformers

from bench.harness.processes import BackProcess, LeadProcess
from tests.support.fim import QWEN, gguf_with, tokenizer_with
from tests.support.tiny_gguf import attention, decoder_tensors, write
from tests.support.tiny_transformers import SHAPE, make_model

pytestmark = pytest.mark.slow

BEFORE, AFTER = "def the_path(name):\n    ", "\n    return the_path\n"


@pytest.fixture(params=["llamacpp", "transformers"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "llamacpp":
        return str(gguf_with(QWEN[:3], write(tmp_path / "plain.gguf", "llama", decoder_tensors(), attention), tmp_path))
    config = transformers.LlamaConfig(**{**SHAPE, "max_position_embeddings": 512})
    return make_model(tmp_path, config, tokenizer_with(QWEN[:3], special=False))


def asked(lead: LeadProcess, path: str, **fields: Any) -> Any:
    more = {"temperature": 0.8, "seed": 3, "max_tokens": 40}
    answer = requests.post(f"{lead.url}{path}", json={**more, **fields}, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_same_text_with_a_back_and_without(model: str) -> None:
    with LeadProcess("-m", model, "--threads", "1", "--parallel", "2", "--print-mode", "none") as lead:
        lead.ready()

        def texts() -> list[str]:
            extra = [{"filename": "a.py", "text": "the " * 30}]
            filled = asked(lead, "/infill", input_prefix=BEFORE, input_suffix=AFTER, input_extra=extra)
            assert filled["stop"] and filled["tokens_predicted"] > 0
            done = asked(lead, "/v1/completions", prompt=BEFORE, suffix=AFTER)
            return [filled["content"], done["choices"][0]["text"]]

        alone = texts()
        prompt = requests.post(f"{lead.url}/tokenize", json={"content": BEFORE + AFTER}, timeout=60).json()["tokens"]
        usage = asked(lead, "/v1/completions", prompt=BEFORE, suffix=AFTER)["usage"]
        assert usage["prompt_tokens"] == len(prompt) + 3
        with BackProcess(lead.back_port, "-m", model, "--threads", "1"):
            lead.has_backs(1)
            assert texts() == alone
