"""The draft before it learns, and how it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from duo.errors import FileError, ModelError
from duo.models.distil.lessons import Lesson, Places
from duo.models.distil.student import cut, kept, narrow
from duo.models.distil.training import Trainer

COMMON: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 32, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def model(kind: str, layers: int = 6) -> Any:
    torch.manual_seed(1)
    if kind == "llama":
        config: Any = LlamaConfig(num_hidden_layers=layers, tie_word_embeddings=True, initializer_range=0.2, **COMMON)
    else:
        config = Gemma2Config(
            num_hidden_layers=layers, sliding_window=8, final_logit_softcapping=5.0, initializer_range=0.2, **COMMON
        )
    return AutoModelForCausalLM.from_config(config).eval()


def test_layers_are_spread_over_the_target() -> None:
    assert kept(16, 2) == [0, 15] and kept(30, 3) == [0, 14, 29] and kept(5, 5) == [0, 1, 2, 3, 4] and kept(9, 1) == [0]
    for count in (0, 7):
        with pytest.raises(ModelError, match="--layers must be from 1 to 6"):
            kept(6, count)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_cut_model_has_the_layers_that_it_keeps(kind: str) -> None:
    target = model(kind)
    draft = cut(target, 3)
    assert len(draft.model.layers) == 3
    for place, layer in enumerate(kept(6, 3)):
        whole, part = target.model.layers[layer].state_dict(), draft.model.layers[place].state_dict()
        assert all(torch.equal(whole[name], part[name]) for name in whole)
    if kind == "gemma2":
        assert draft.config.layer_types == [target.config.layer_types[layer] for layer in kept(6, 3)]


def test_all_layers_are_the_target_itself() -> None:
    target = model("gemma2")
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.allclose(cut(target, 6)(tokens).logits, target(tokens).logits, atol=1e-5)


def test_a_narrow_model_approximates_the_table() -> None:
    target = model("llama")
    with pytest.raises(ModelError, match="multiple of 64"):
        narrow(target, 48)
    with pytest.raises(ModelError, match="more than the target's own, 64"):
        narrow(target, 128)
    draft = narrow(target, 64)
    whole, part = target.get_input_embeddings().weight.detach(), draft.get_input_embeddings().weight.detach()
    whole, part = whole @ whole.T, part @ part.T  # the same up to a rotation and a factor
    assert torch.allclose(whole / whole.norm(), part / part.norm(), atol=1e-3)


def lessons(target: Any, count: int) -> list[Lesson]:
    found = []
    for number in range(count):
        tokens = torch.from_numpy(np.random.default_rng(number).integers(3, 64, 12 + number % 5))
        with torch.inference_mode():
            logits = target(tokens[None]).logits[0].numpy()
        places = Places()
        for line in logits[3:-1]:
            places.add(line)
        found.append(places.lesson(tokens[:4].tolist(), tokens[4:].tolist()))
    return found


def greedy(target: Any, count: int) -> list[Lesson]:
    """Lessons whose answers are the target's greedy ones."""
    found = []
    for number in range(count):
        tokens = [int(t) for t in np.random.default_rng(number).integers(3, 64, 4)]
        places = Places()
        with torch.inference_mode():
            for _ in range(8):
                line = target(torch.tensor([tokens])).logits[0, -1].numpy()
                places.add(line)
                tokens.append(int(line.argmax()))
        found.append(places.lesson(tokens[:4], tokens[4:]))
    return found


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_whole_target_has_nothing_to_learn(kind: str, tmp_path: Path) -> None:
    """All of its first guesses are right. So prompts, padding and caps of logits are where they belong."""
    target = model(kind)
    trainer = Trainer(cut(target, 6), lessons(target, 6), 1.0, tmp_path / "state", 0)
    assert trainer.right(greedy(target, 6)) == 1.0


def test_a_draft_learns_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    target, file = model("llama"), tmp_path / "state.safetensors"
    taught = lessons(target, 40)

    class StopError(Exception):
        pass

    losses: list[float] = []

    def step(progress: Any) -> None:
        losses.append(progress.loss)
        if len(losses) == 30:
            raise StopError

    first = Trainer(cut(target, 2), taught, 1e6, file, 0, table=True)
    with pytest.raises(StopError):
        first.run(step)
    assert losses[-1] < losses[0]
    first.save()
    again = Trainer(cut(target, 2), taught, 1e6, file, 0, table=True)
    assert again.used == first.used > 0
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    other = narrow(target, 64)
    with pytest.raises(FileError, match="of another run, or damaged"):
        Trainer(other, taught, 1e6, file, 0, table=True)
    file.write_bytes(b"nothing")
    with pytest.raises(FileError, match="of another run, or damaged"):
        Trainer(cut(target, 2), taught, 1e6, file, 0, table=True)
