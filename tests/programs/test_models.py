"""Several models by name, as real processes: the shipped target, and a tiny one with a vocabulary of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import pytest
import requests
import transformers

from bench.harness.processes import BackProcess, LeadProcess, wait_for
from tests.support.tiny_transformers import SHAPE, make_model, make_tokenizer

pytestmark = pytest.mark.slow

GREEDY = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
QUESTIONS = {
    "shipped": ["What does os.path.join do?", "What does shutil.copytree do?"],
    "tiny": ["the other", "the end of the"],
}
FLAGS = ("--threads", "1", "--ctx-size", "512")
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
SHORT = 3
"""Seconds of a ttl that is let pass."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    shape: dict[str, Any] = {**SHAPE, "max_position_embeddings": 512}
    return make_model(folder, transformers.LlamaConfig(**shape), make_tokenizer(template=TEMPLATE))


@pytest.fixture(scope="module")
def texts(tiny: str) -> dict[str, list[str]]:
    """The answers of a lead of its own for each model."""
    found = {}
    for name, model in (("shipped", ()), ("tiny", ("-m", tiny))):
        with LeadProcess(*FLAGS, *model) as lead:
            lead.ready()
            found[name] = [lead.ask(question, **GREEDY).text for question in QUESTIONS[name]]
    assert all(texts[0] and texts[0] != texts[1] for texts in found.values())
    return found


@pytest.fixture(scope="module")
def lead(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeadProcess]:
    """Both may be loaded at once, and the tiny one is put away soon."""
    path = tmp_path_factory.mktemp("models") / "models.yaml"
    path.write_text(
        f"max_loaded: 2\nmodels:\n  shipped: {{aliases: [gpt-4o]}}\n  tiny: {{flags: -m {tiny}, ttl: {SHORT}}}\n"
        "  missing: {flags: -m /nowhere/at/all.gguf}\n"
    )
    with LeadProcess("--models", str(path), *FLAGS) as it:
        it.ready()
        yield it


def status(lead: LeadProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{lead.url}/v1/models/{name}", timeout=60).json()["status"]
    return found


def text(lead: LeadProcess, model: str, question: str) -> str:
    return lead.ask(question, model=model, **GREEDY).text


def process_of(lead: LeadProcess, name: str) -> psutil.Process | None:
    """The process of a model."""
    children = psutil.Process(lead.process.pid).children()
    for one in children:
        with suppress(psutil.NoSuchProcess):  # it ends meanwhile
            if one.cmdline()[-2:] == ["lead.models.child", name]:
                return one
    return None


def test_two_clients_ask_in_turns_with_a_back_for_each_model(
    lead: LeadProcess, tiny: str, texts: dict[str, list[str]]
) -> None:
    def targets() -> dict[str, str | None]:
        return {back["name"]: back["target"] for back in requests.get(f"{lead.url}/backs", timeout=60).json()["data"]}

    with (
        BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1", "--name", "of-shipped") as first,
        BackProcess(lead.back_port, "-m", tiny, "--threads", "1", "--name", "of-tiny") as second,
        ThreadPoolExecutor(2) as clients,
    ):
        for back in (first, second):
            back.says("lets this back wait")
        assert targets() == {"of-shipped": None, "of-tiny": None}

        def ask(name: str) -> list[str]:
            return [text(lead, name, question) for question in QUESTIONS[name] * 3]

        for _ in range(2):
            for name, found in zip(texts, clients.map(ask, texts), strict=True):
                assert found == texts[name] * 3
        first.joined()
        second.joined()
        assert targets()["of-shipped"] == "shipped"
        figures = requests.get(f"{lead.url}/backs", timeout=60).json()["data"]
        assert next(back for back in figures if back["name"] == "of-shipped")["accepted"] > 0

        # The tiny one is put away after its ttl, and comes back, and so does its back.
        wait_for(lambda: status(lead, "tiny")["value"] == "unloaded", "the tiny model is put away")
        wait_for(lambda: targets() == {"of-shipped": "shipped", "of-tiny": None}, "its back waits")
        assert text(lead, "gpt-4o", QUESTIONS["shipped"][0]) == texts["shipped"][0]
        assert text(lead, "tiny", QUESTIONS["tiny"][0]) == texts["tiny"][0]
        second.joined(2)


def test_killed_in_the_middle_of_a_load(lead: LeadProcess, texts: dict[str, list[str]]) -> None:
    assert text(lead, "shipped", QUESTIONS["shipped"][0]) == texts["shipped"][0]
    wait_for(lambda: status(lead, "tiny")["value"] == "unloaded", "the tiny model is put away")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "the"}]}
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(requests.post, f"{lead.url}/v1/chat/completions", json=body, timeout=240)
        wait_for(lambda: process_of(lead, "tiny") is not None, "the process of the tiny model")
        assert status(lead, "tiny")["value"] == "loading"
        process = process_of(lead, "tiny")
        assert process is not None
        process.kill()
        refused = asking.result()
    assert refused.status_code == 503
    assert "SIGKILL" in refused.json()["error"]["message"]
    assert status(lead, "tiny")["failed"]
    assert text(lead, "shipped", QUESTIONS["shipped"][1]) == texts["shipped"][1], "the other one serves on"
    assert text(lead, "tiny", QUESTIONS["tiny"][1]) == texts["tiny"][1], "the next request loads it anew"


def test_a_model_that_cannot_be_loaded(lead: LeadProcess, texts: dict[str, list[str]]) -> None:
    body = {"model": "missing", "messages": [{"role": "user", "content": "the"}]}
    refused = requests.post(f"{lead.url}/v1/chat/completions", json=body, timeout=240)
    assert refused.status_code == 503
    assert "/nowhere/at/all.gguf" in refused.json()["error"]["message"]
    assert text(lead, "shipped", QUESTIONS["shipped"][0]) == texts["shipped"][0]


def test_no_model_outlives_the_lead(lead: LeadProcess) -> None:
    """Killed without a warning. The last test: the lead is gone after it."""
    text(lead, "shipped", "Hi")
    process = process_of(lead, "shipped")
    assert process is not None
    lead.kill()
    process.wait(60)
