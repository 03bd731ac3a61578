"""Models with recurrent layers in the transformers engine, against plain forward passes of the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bench.harness.processes import wait_for
from bench.kinds import KINDS, checkpoint, vocabulary
from bench.kinds.kind import Kind
from duo.engines.base import ROOT, Chunk, InterruptedForwardError, Row
from duo.engines.transformers import checkpoints
from duo.engines.transformers.engine import TransformersEngine
from tests.support.interrupting import interrupting
from tests.support.reference import Reference, engine_of, interleave

OTHERS = (
    Kind(
        "olmo-hybrid",
        "gated delta net",
        "olmo_hybrid",
        {
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    Kind(
        "lfm3",
        "short convolution",
        "lfm3",
        {"layer_types": ["conv", "full_attention", "conv", "sliding_attention"], "sliding_window": 8},
    ),
    Kind(
        "zamba2",
        "Mamba-2",
        "zamba2",
        {
            "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"],
            "mamba_d_state": 16,
            "mamba_ngroups": 1,
            "n_mamba_heads": 8,
            "mamba_headdim": 16,
            "num_mem_blocks": 1,
            "adapter_rank": 8,
            "num_key_value_heads": 4,
            "attention_head_dim": 32,
        },
    ),
)
FAMILIES = ("gated delta net", "short convolution", "Mamba", "Mamba-2")
SERVED = {kind.name: kind for kind in (*KINDS.values(), *OTHERS) if kind.family in FAMILIES and kind.model_type}
QUICK = ("qwen35", "lfm2", "mamba", "mamba2")
"""One of each family."""
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SERVED]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def find(name: str) -> str:
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            vocabulary.write(path)
            checkpoint.write(SERVED[name], path, seed=1)
            made[name] = str(path)
        return made[name]

    return find


@pytest.mark.parametrize("name", EACH)
def test_random_interleavings(name: str, folder_of: Callable[[str], str]) -> None:
    """Trees, chunks, commits with a rest, truncates and shares over three slots."""
    folder = folder_of(name)
    interleave(folder, Reference(folder), 7, apart=None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_more_random_interleavings(seed: int, folder_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are so close that truncates and shares use them."""
    monkeypatch.setattr(checkpoints, "SPACING", 3)
    name = ["qwen35", "nemotron-h", "lfm2", "mamba"][seed]
    folder = folder_of(name)
    interleave(folder, Reference(folder), seed, apart=None)


@pytest.mark.parametrize("name", ["qwen35", "mamba2", "lfm2", "mamba"])
def test_long_prompts(name: str, folder_of: Callable[[str], str]) -> None:
    """Several chunks, each of several blocks."""
    folder = folder_of(name)
    engine, reference = engine_of(folder, slots=2, batch=150), Reference(folder)
    tokens = [(7 * i * i + 3 * i) % 300 for i in range(401)]
    engine.extend(1, tokens[:50])
    engine.extend(0, tokens[:400])
    got = engine.forward([Row(0, 0, tokens[400]), Row(1, 1, tokens[50])])
    np.testing.assert_allclose(got[0], reference.logits(tokens), atol=1e-3)
    np.testing.assert_allclose(got[1], reference.logits(tokens[:51]), atol=1e-3)


def greedy(engine: TransformersEngine, prompt: list[int], count: int, guesses: Callable[[list[int]], list[int]]) -> Any:
    """Decode with chains of guesses. Returns the tokens, and how many guesses were right."""
    engine.truncate(0, 0)
    engine.extend(0, prompt[:-1])
    text, right = list(prompt), 0
    while len(text) < len(prompt) + count:
        chain = [text[-1], *guesses(text)]
        logits = engine.forward([Row(i, 0, token, i - 1 if i else ROOT) for i, token in enumerate(chain)])
        picks = logits.argmax(1).tolist()
        taken = 0
        while taken < len(chain) - 1 and chain[taken + 1] == picks[taken]:
            taken += 1
        engine.commit(0, range(taken + 1))
        text += picks[: taken + 1]
        right += taken
    return text[: len(prompt) + count], right


@pytest.mark.parametrize("name", EACH)
def test_greedy_text_with_guesses_is_that_of_generate(name: str, folder_of: Callable[[str], str]) -> None:
    folder = folder_of(name)
    engine, reference = engine_of(folder), Reference(folder)
    prompt = [(11 * i + 5) % 300 for i in range(23)]
    reference.model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    made = reference.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
    expected = made[0].tolist()

    def guesses(text: list[int]) -> list[int]:
        """Right guesses, and a wrong one at a place that moves."""
        coming = expected[len(text) : len(text) + 4]
        return [(token + (i == len(text) % 5)) % engine.vocabulary.size for i, token in enumerate(coming)]

    alone, _ = greedy(engine, prompt, 40, lambda text: [])
    guessed, right = greedy(engine, prompt, 40, guesses)
    assert alone == guessed == expected
    assert right > 10


@pytest.mark.slow
def test_a_conversation_reads_only_what_is_new(
    folder_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight turns. Each prompt is the last one, its answer without the last three tokens, and more."""
    monkeypatch.setattr(checkpoints, "SPACING", 16)
    folder = folder_of("qwen35")
    engine, reference = engine_of(folder, batch=8), Reference(folder)
    text = [(5 * i + 1) % 300 for i in range(40)]
    held: list[int] = []
    for turn in range(8):
        common = next(
            (i for i, (a, b) in enumerate(zip(held, text, strict=False)) if a != b), min(len(held), len(text))
        )
        left = engine.truncate(0, min(common, len(text) - 1))
        assert left > common - 16
        engine.extend(0, text[left:-1])
        answer = [text[-1]]
        for _ in range(20):
            logits = engine.forward([Row(0, 0, answer[-1])])[0]
            np.testing.assert_allclose(logits, reference.logits(text[:-1] + answer), atol=1e-3)
            engine.commit(0, [0])
            answer.append(int(logits.argmax()))
        held = text[:-1] + answer[:-1]
        text = held[:-3] + [(turn + 7 * i) % 300 for i in range(9)]


def test_the_same_prompt_again_is_not_read_again(folder_of: Callable[[str], str]) -> None:
    engine = engine_of(folder_of("nemotron-h"), slots=2)
    prompt = list(range(30))
    engine.extend(0, prompt[:-1])
    first = engine.forward([Row(0, 0, prompt[-1])])[0].copy()
    engine.commit(0, [0])
    assert engine.share(0, 1, 29) == 29
    assert engine.truncate(0, 29) == 29
    assert engine.truncate(1, 5) == 0
    again = engine.forward([Row(0, 0, prompt[-1])])[0]
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("name", ["qwen35", "mamba2"])
def test_an_interrupted_pass_leaves_the_slot_as_it_was(name: str, folder_of: Callable[[str], str]) -> None:
    engine = engine_of(folder_of(name), slots=2)
    engine.extend(0, list(range(20)))
    engine.forward([Row(0, 0, 3), Row(1, 0, 4, 0)])
    expected = engine.forward([Row(2, 0, 5, 1)])[0].copy()
    engine.commit(0, [0, 1])
    with interrupting(engine):

        def given_up() -> bool:
            try:
                engine.forward([Row(3, 0, 9), Row(4, 0, 10, 3)], [Chunk(1, [1, 2, 3])])
            except InterruptedForwardError:
                return True
            engine.commit(0, [])
            engine.truncate(1, 0)
            return False

        wait_for(given_up, "a forward pass that is given up")
    assert engine.length(1) == 0
    np.testing.assert_allclose(engine.forward([Row(5, 0, 5)])[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen35", "mamba2", "lfm2"])
def test_step_by_step(name: str, folder_of: Callable[[str], str]) -> None:
    """The tree is the same either way. The way is chosen while no row is live."""
    engine, reference = engine_of(folder_of(name)), Reference(folder_of(name))
    tokens, parents = list(range(20)), [ROOT, 0, 0, 1, ROOT, 4]
    engine.extend(0, tokens)
    rows = [Row(i, 0, 30 + i, parent) for i, parent in enumerate(parents)]
    at_once = engine.forward(rows).copy()
    with pytest.raises(ValueError, match="rows are live"):
        engine.step_by_step(True)
    engine.commit(0, [])
    engine.step_by_step(True)
    np.testing.assert_allclose(engine.forward(rows), at_once, atol=1e-4)
    engine.commit(0, [0, 1], [3])
    after = engine.forward([Row(9, 0, 40, 3)])[0]
    np.testing.assert_allclose(after, reference.logits([*tokens, 30, 31, 33, 40]), atol=1e-4)


@pytest.mark.parametrize("name", ["qwen35", "nemotron-h", "lfm2"])
def test_bfloat16(name: str, folder_of: Callable[[str], str]) -> None:
    """The logits are as close to those in float32 as the library's pass in bfloat16."""
    folder = folder_of(name)
    engine, exact, own = engine_of(folder, dtype="bfloat16"), Reference(folder), Reference(folder)
    own.model = own.model.to(torch.bfloat16)
    tokens = [(7 * i + 3) % 300 for i in range(30)]
    engine.extend(0, tokens[:20])
    ours = engine.forward([Row(i, 0, tokens[i], i - 1 if i > 20 else ROOT) for i in range(20, 30)])
    with torch.inference_mode():
        ids = torch.tensor([tokens])
        expected, theirs = (each.model(ids).logits[0, 20:].float().numpy() for each in (exact, own))
    assert np.linalg.norm(ours - expected) < 1.5 * np.linalg.norm(theirs - expected)


def test_the_text_part_of_a_model_that_also_sees(folder_of: Callable[[str], str], tmp_path: Path) -> None:
    """Qwen3.5 is published so: the language model has its own names, beside a model for images."""
    text = transformers.AutoConfig.from_pretrained(folder_of("qwen35")).to_dict()
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    torch.manual_seed(3)
    whole: Any = transformers.Qwen3_5ForConditionalGeneration(
        transformers.Qwen3_5Config(text_config=text, vision_config=vision)
    )
    vocabulary.write(tmp_path)
    whole.save_pretrained(tmp_path)
    engine = engine_of(str(tmp_path), slots=2)
    tokens = [(7 * i + 3) % 300 for i in range(20)]
    engine.extend(0, tokens[:10])
    got = engine.forward([Row(i, 0, tokens[i], i - 1 if i > 10 else ROOT) for i in range(10, 20)])
    with torch.inference_mode():
        wanted = whole.eval()(torch.tensor([tokens])).logits[0, 10:].numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4)
