"""Real models whose vocabularies are spelled differently, or differ in a few tokens, draft for each other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers

from bench.harness.decoding import chat_prompt
from bench.harness.models import RUNTIMES, Runtime
from bench.harness.near_ties import walk
from bench.harness.processes import BackProcess, LeadProcess, wait_for
from bench.harness.real import NAMES, Name
from duo.engines import EngineOptions, Vocabulary, load
from duo.engines.meaning import compare
from duo.sampling.params import SamplingParams
from duo.wire.messages import Welcomed
from tests.support.desk import Desk
from tests.support.fakes import hash_of
from tests.support.real_models import real_model

pytestmark = pytest.mark.slow

QUESTION = "Name the capitals of France, Italy and Spain."
RENAMED = {"<|im_end|>": "<|done|>"}
ADDED = ["<|think|>", "<|/think|>"]
CONTEXT = ("--ctx-size", "512", "--threads", "1")


def renamed(folder: Path, path: Path) -> Path:
    """The same model with other names for some special tokens."""
    shutil.copytree(folder, path, copy_function=partial(_rename, RENAMED))
    return path


def _rename(names: Mapping[str, str], source: str, target: str) -> None:
    if source.endswith((".json", ".jinja")):
        text = Path(source).read_text(encoding="utf-8")
        for old, new in names.items():
            text = text.replace(old, new)
        Path(target).write_text(text, encoding="utf-8")
    else:
        shutil.copyfile(source, target)


def extended(folder: Path, path: Path) -> Path:
    """The same model with special tokens more, as fine-tunes have them."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ADDED})
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """SmolLM2 as it is, in both runtimes, and changed as fine-tunes are."""
    folder, changed = real_model("smollm2", "transformers"), tmp_path_factory.mktemp("changed")
    return {
        "gguf": real_model("smollm2", "llamacpp"),
        "folder": folder,
        "renamed": renamed(folder, changed / "renamed"),
        "extended": extended(folder, changed / "extended"),
    }


@contextmanager
def vocabulary(model: Path, runtime: Runtime) -> Iterator[Vocabulary]:
    engine = load(str(model), runtime, EngineOptions(threads=1, context=64))
    yield engine.vocabulary
    engine.close()


def together(target: Path, draft: Path, runtime: Runtime) -> tuple[str, str]:
    """What a lead, whose target runs on `runtime`, and a back log when they have answered."""
    with LeadProcess("-m", str(target), *CONTEXT, "--parallel", "1", "--print-mode", "none") as lead:
        lead.ready()
        with BackProcess(lead.back_port, "-m", str(draft), *CONTEXT, "--name", "mini") as back:
            back.joined()
            lead.has_backs(1)

            def guessed_right() -> bool:
                reply = lead.ask(QUESTION, temperature=0, max_tokens=24)
                assert reply.text and reply.finish_reason in ("stop", "length")
                return bool(lead.backs()[0]["accepted"])

            if runtime == "transformers":
                wait_for(guessed_right, "an answer with accepted guesses")
            else:
                # A draft in transformers may be slower than a target in llama.cpp, and then nothing is verified.
                guessed_right()
            assert "not drafting for this answer" not in back.log and "Traceback" not in back.log + lead.log
            return lead.log, back.log


def agreement(target: Path, draft: Path, runtime: Runtime) -> float:
    """Share of the target's tokens that are among the draft model's guesses, however long both take."""
    other: Runtime = "llamacpp" if runtime == "transformers" else "transformers"
    engine = load(str(target), runtime, EngineOptions(threads=1, context=256))
    drafting = load(str(draft), other, EngineOptions(threads=1, context=256, slots=1))
    try:
        comparison = compare(engine.vocabulary.meanings, drafting.vocabulary.meanings)
        assert comparison.few
        desk = Desk(real=drafting, n_ahead=3)
        desk.drafting.hear(Welcomed("mini", "target", engine.vocabulary.size, comparison.tokens))
        prompt = chat_prompt(engine, QUESTION)
        # What only one of them has stands in the prompt too.
        prompt += [token for token in comparison.tokens if token < engine.vocabulary.size] + prompt[-3:]
        hits, tokens = 0, walk(engine, prompt, SamplingParams(temperature=0.0), 24).tokens
        desk.begin(1, prompt, SamplingParams(temperature=0.0))
        for token in tokens:
            desk.work()
            here = (len(desk.asked[1].tokens), hash_of(desk.asked[1].tokens))
            hits += any(token in e.tokens for e in desk.heard[1] if (e.length, e.hash) == here)
            desk.commit(1, [token])
        guessed = {token for e in desk.heard[1] for token in e.tokens}
        assert not guessed & set(comparison.tokens)
        return hits / len(tokens)
    finally:
        engine.close()
        drafting.close()


@pytest.mark.parametrize("name", NAMES)
def test_both_runtimes_find_the_same_meanings(name: Name) -> None:
    model = {runtime: real_model(name, runtime) for runtime in RUNTIMES}
    with vocabulary(model["llamacpp"], "llamacpp") as one, vocabulary(model["transformers"], "transformers") as other:
        comparison = compare(one.meanings, other.meanings)
        assert comparison.count == 0, comparison
        assert one.fingerprint == other.fingerprint
        for text in ("The capital", "<bos>The capital", "<|im_start|>user\nThe capital<|im_end|>"):
            assert one.encode(text) == other.encode(text)
        if name == "gemma3":
            (bos,) = one.encode_rendered("<bos>")
            for each in (one, other):
                assert each.meanings[138] == b"  ", "spelled with U+2581 in one of them"
                assert each.encode("<bos>The capital") == each.encode("The capital")
                assert each.encode("<bos>The capital").count(bos) == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_same_gemma_in_the_other_runtime_drafts(runtime: Runtime) -> None:
    other: Runtime = "llamacpp" if runtime == "transformers" else "transformers"
    target, draft = real_model("gemma3", runtime), real_model("gemma3", other)
    assert all("differ" not in log for log in together(target, draft, runtime))
    assert agreement(target, draft, runtime) > 0.7


RENAMING = "1 of 49152 tokens differs, it is 2: "
ADDING = "2 of 49154 tokens differ, the first is 49152: "


@pytest.mark.parametrize(
    ("target", "draft", "difference"),
    [
        ("gguf", "renamed", RENAMING + "'<|im_end|>' in the target, '<|done|>' in the draft"),
        ("renamed", "gguf", RENAMING + "'<|done|>' in the target, '<|im_end|>' in the draft"),
        ("gguf", "extended", ADDING + "nothing in the target, '<|think|>' in the draft"),
        ("extended", "gguf", ADDING + "'<|think|>' in the target, nothing in the draft"),
    ],
)
def test_smollm2_changed_as_fine_tunes_are_drafts(
    smollm2: Mapping[str, Path], target: str, draft: str, difference: str
) -> None:
    runtime: Runtime = "llamacpp" if target == "gguf" else "transformers"
    models = smollm2[target], smollm2[draft]
    assert [log.count(difference) for log in together(*models, runtime)] == [1, 1]
    assert agreement(*models, runtime) > 0.7


def test_tokens_that_the_draft_lacks_are_read_in_a_prompt(smollm2: Mapping[str, Path]) -> None:
    """Where the prompt itself holds what only the target has; a draft model beside the target too."""
    arguments = (
        "-m",
        str(smollm2["extended"]),
        "--model-draft",
        str(smollm2["gguf"]),
        *CONTEXT,
        "--print-mode",
        "none",
    )
    with LeadProcess(*arguments) as lead:
        lead.ready()
        for _ in range(5):
            lead.ask(f"{ADDED[0]}{QUESTION}{ADDED[1]} One sentence.", temperature=0, max_tokens=32)
        assert "2 of 49154 tokens differ" in lead.log
        assert "goes on without" not in lead.log and "Traceback" not in lead.log


def test_a_stop_that_names_a_special_token_which_does_not_end_the_model(smollm2: Mapping[str, Path]) -> None:
    """Token ids and names, over HTTP; with `ignore_eos` not even the model's own end is one.

    In float32 on transformers, where the text does not depend on what was asked before.
    """
    with LeadProcess("-m", str(smollm2["folder"]), *CONTEXT, "--print-mode", "none") as lead:
        lead.ready()
        fields: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
        own = lead.ask(QUESTION, **fields)
        assert own.finish_reason == "stop"
        free = lead.ask(QUESTION, **fields, ignore_eos=True)
        assert free.finish_reason == "length" and free.text.startswith(own.text)
        for stop in ({"stop": ["<|im_end|>"]}, {"stop_token_ids": [2]}, {"stop": ["<|im_end|>\n"]}):
            reply = lead.ask(QUESTION, **fields, ignore_eos=True, **stop)
            assert reply.finish_reason == "stop", stop
            assert reply.text == own.text
        with pytest.raises(RuntimeError, match=r"400: .*stop_token_ids: no token 49152 in a vocabulary of 49152"):
            lead.ask(QUESTION, **fields, stop_token_ids=[49152])
