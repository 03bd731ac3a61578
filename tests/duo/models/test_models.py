"""The shipped pair: three runtimes must read the same tokens and the same logits out of the same weights."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from llama_cpp import Llama
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from duo import engines, models
from duo.engines import Engine, EngineOptions, Row
from duo.models import corpus, export
from duo.models.evaluate import acceptance, answer, load

ROOT = Path(models.__file__).resolve().parents[2]
DIRECTORIES = {"target": models.TARGET, "draft": models.DRAFT}
TEXTS = [
    "What does shutil.copytree do?",
    "",
    " ",
    "one\n\ntwo\n\n\nthree\n",
    "a  b   c\t\td \n e",
    "def f(x: int) -> str:\n    if x:\n        return f'{x!r}'\n\n\treturn \"none\"\n",
    "it's we've I'll they'd DON'T 'S",
    "x1y22z333 1234567890 3.14e-10 0xFF",
    "naïve café — “quoted” … € 日本語のテキスト Привет мир עברית",
    "emoji 👩‍👩‍👧 🎉🎉 and a zero\u200bwidth space, nbsp\u00a0here",
    "`os.path.join(path, *paths)`.\n\nJoin two or more pathname components.",
    "trailing spaces   \nand\r\nwindows lines\r\n",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Both shipped models in both types."""
    folder = tmp_path_factory.mktemp("gguf")
    files: dict[tuple[str, str], Path] = {}
    for name, directory in DIRECTORIES.items():
        for kind in ("bf16", "q8_0"):
            files[name, kind] = folder / f"{name}-{kind}.gguf"
            export.export(directory, files[name, kind], kind)
    return files


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The tokenizer as transformers loads it."""
    return AutoTokenizer.from_pretrained(models.TARGET)


def open_llama(path: Path) -> Engine:
    """A model in llama.cpp, with room for a whole conversation of rows."""
    return engines.load(str(path), "llamacpp", EngineOptions(threads=1, context=1024, tree_rows=512, batch=512))


def logits_of(llama: Engine, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Of every position, [len(ids), vocabulary]."""
    llama.truncate(0, 0)
    return llama.forward([Row(at, 0, token, at - 1) for at, token in enumerate(ids)]).copy()


def in_domain(tokenizer: Any, count: int) -> list[list[int]]:
    """Token ids of whole conversations from the training text."""
    found: list[list[int]] = []
    for messages in corpus.conversations(random.Random(5)):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        found.append(tokenizer(text)["input_ids"][:400])
        if len(found) == count:
            break
    return found


# --- files


def test_the_pair_is_complete_and_small() -> None:
    total = 0
    for directory in DIRECTORIES.values():
        names = {p.name for p in directory.iterdir()}
        assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
        assert "tokenizer_config.json" in names
        total += sum(p.stat().st_size for p in directory.iterdir())
    assert total < 40e6


def test_both_models_share_one_vocabulary() -> None:
    hashes = {hashlib.sha256((d / "tokenizer.json").read_bytes()).hexdigest() for d in DIRECTORIES.values()}
    assert len(hashes) == 1
    for directory in DIRECTORIES.values():
        config = json.loads((directory / "config.json").read_text())
        assert (config["model_type"], config["vocab_size"]) == ("llama", 4096)
        assert config["max_position_embeddings"] == 1024


# --- tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=False) == text


def test_three_runtimes_split_text_the_same_way(tokenizer: Any, gguf_files: dict[tuple[str, str], Path]) -> None:
    raw = Tokenizer.from_file(str(models.TARGET / "tokenizer.json"))
    llama = Llama(str(gguf_files["draft", "q8_0"]), vocab_only=True, verbose=False)
    sources = [s[i : i + 700] for s in corpus.sources()[:4] for i in (0, 1500, 4001)]
    answers = [fact.what for fact in corpus.facts()[::40]]
    for text in TEXTS + sources + answers:
        expected = raw.encode(text).ids
        assert tokenizer(text)["input_ids"] == expected, text
        assert llama.tokenize(text.encode(), add_bos=False, special=True) == expected, text


def test_llama_cpp_adds_no_bos_and_knows_the_end(tokenizer: Any, gguf_files: dict[tuple[str, str], Path]) -> None:
    llama = Llama(str(gguf_files["target", "bf16"]), vocab_only=True, verbose=False)
    assert llama.tokenize(b"hello", add_bos=True) == tokenizer("hello")["input_ids"]
    assert llama.token_eos() == tokenizer.eos_token_id
    assert llama.metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert llama.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert llama.n_vocab() == len(tokenizer) == 4096


# --- chat template


def test_template_writes_several_turns_and_an_optional_system_message(tokenizer: Any) -> None:
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is len?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nWhat is len?<|im_end|>\n<|im_start|>assistant\n"
    )
    system = [{"role": "system", "content": "Be brief."}]
    with_system = tokenizer.apply_chat_template(system + turns, tokenize=False, add_generation_prompt=True)
    assert with_system == "<|im_start|>system\nBe brief.<|im_end|>\n" + text
    assert not tokenizer.apply_chat_template(turns, tokenize=False).endswith("assistant\n")


def test_a_longer_conversation_only_adds_tokens(tokenizer: Any) -> None:
    """Prefix reuse between the turns of a chat depends on it."""
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is len?"},
    ]
    first = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    short, long = tokenizer(first)["input_ids"], tokenizer(whole)["input_ids"]
    assert long[: len(short)] == short


# --- corpus


def test_training_text_is_deterministic_and_ignores_who_was_imported_before() -> None:
    program = (
        "import hashlib, random\nfrom duo.models import corpus\n"
        "text = repr([corpus.facts(), list(corpus.conversations(random.Random(1))), corpus.questions(50, 2)])\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    patch = "import logging\nlogging.Logger.extra = lambda self: 'Not from the library.'\n"
    outputs = set()
    for seed, first in (("1", ""), ("2", patch)):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "ignore", "-c", first + program]
        outputs.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(outputs) == 1


def test_every_fact_can_be_asked_about_and_names_are_unique() -> None:
    facts = corpus.facts()
    assert 1000 < len(facts) == len({f.name for f in facts})
    rng = random.Random(0)
    for fact in facts:
        for kind in fact.kinds():
            question = corpus.ask(fact, kind, rng)
            assert question.answer.startswith(question.opening) and question.opening
    by_name = {f.name: f for f in facts}
    assert by_name["shutil.copytree"].what.startswith("Recursively copy a directory tree")
    with pytest.raises(ValueError, match="no answer of kind 'where'"):
        corpus.ask(by_name["len"], "where", rng)


# --- GGUF


@pytest.fixture(scope="module", params=["target", "draft"])
def reference(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[str, list[tuple[list[int], Any]]]:
    """A model's name, and transformers' logits on in-domain text."""
    model = AutoModelForCausalLM.from_pretrained(DIRECTORIES[request.param], dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = [(ids, model(torch.tensor([ids])).logits[0].numpy()) for ids in in_domain(tokenizer, 6)]
    return request.param, rows


def _compare(llama: Engine, rows: list[tuple[list[int], npt.NDArray[np.float32]]]) -> tuple[float, float, float]:
    """Share of equal argmax, mean absolute difference, and correlation of the logits."""
    ours, theirs = [], []
    for ids, logits in rows:
        theirs.append(logits_of(llama, ids))
        ours.append(logits)
    a, b = np.concatenate(ours), np.concatenate(theirs)
    equal = float((a.argmax(1) == b.argmax(1)).mean())
    return equal, float(np.abs(a - b).mean()), float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_bf16_gguf_has_the_same_logits(reference: Any, gguf_files: dict[tuple[str, str], Path]) -> None:
    name, rows = reference
    equal, difference, correlation = _compare(open_llama(gguf_files[name, "bf16"]), rows)
    assert equal > 0.98 and difference < 0.1 and correlation > 0.999


def test_q8_0_gguf_is_close(reference: Any, gguf_files: dict[tuple[str, str], Path]) -> None:
    name, rows = reference
    equal, difference, correlation = _compare(open_llama(gguf_files[name, "q8_0"]), rows)
    assert equal > 0.95 and difference < 0.2 and correlation > 0.995


def test_export_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom duo.models import export\n"
        f"assert export.main(['draft', {str(tmp_path / 'draft.gguf')!r}, '--type', 'q8_0']) == 0\n"
        "print(sorted({'torch', 'transformers', 'safetensors', 'tokenizers'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "draft.gguf").read_bytes()[:4] == b"GGUF"


def test_cached_gguf_exports_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = export.cached_gguf("draft", "q8_0")
    assert path.parent == tmp_path / "duo" and path.read_bytes()[:4] == b"GGUF"
    stamp = path.stat().st_mtime_ns
    assert export.cached_gguf("draft", "q8_0") == path and path.stat().st_mtime_ns == stamp
    assert export.cached_gguf("draft", "bf16") != path
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".gguf", ".gguf"]


def test_export_errors_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(model: Path) -> str:
        assert export.main([str(model), str(tmp_path / "out.gguf")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0]

    assert "is not a directory" in error(tmp_path / "missing")
    other = tmp_path / "other"
    other.mkdir()
    assert "has no config.json" in error(other)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (other / name).write_text("{}")
    (other / "config.json").write_text("not json")
    assert "is not valid JSON" in error(other)
    (other / "config.json").write_text('{"model_type": "mamba"}')
    assert "architecture 'mamba'" in error(other)
    assert not (tmp_path / "out.gguf").exists()


# --- what the pair knows


@pytest.mark.slow
def test_target_knows_its_domain_and_draft_guesses_some_of_it(tokenizer: Any) -> None:
    answers = answer(load(models.TARGET), tokenizer, corpus.questions(24, seed=3))
    assert sum(a.right for a in answers) / len(answers) >= 0.75
    assert sum(len(a.completion) for a in answers) / len(answers) >= 50
    assert 0.5 <= acceptance(load(models.DRAFT), answers) <= 0.9
