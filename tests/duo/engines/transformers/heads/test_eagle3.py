"""EAGLE-3 heads of both families of names, against a plain computation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads import load, reader
from duo.engines.transformers.heads.target import IMPOSSIBLE
from duo.errors import ModelError
from tests.support import tiny_heads
from tests.support.reference import Reference
from tests.support.tiny_heads import attended, rms, rotated
from tests.support.tiny_transformers import LOGITS
from tests.support.told_heads import Guess, goes_right, states_of

CASES: dict[str, dict[str, Any]] = {
    "SpecForge": {"layers": [0, 1, 2]},
    "speculators": {"layers": [0, 1, 2], "nested": True, "norm_before_residual": True},
    "one feature, whole vocabulary": {"layers": [1], "draft_size": 0, "embeds": True},
    "norm before fc": {"layers": [0, 2], "norm_before_fc": True},
    "last state": {"layers": []},
}


def plain_of(folder: Path, reference: Reference, layers: Sequence[int], options: dict[str, Any]) -> Guess:
    """Computes every row of the head anew, one by one."""
    w = load_file(folder / "model.safetensors")
    w = {name.replace("layers.0.", "midlayer."): tensor for name, tensor in w.items()}
    embeddings = w.get("embed_tokens.weight", reference.model.model.embed_tokens.weight.detach())

    def plain(tokens: Sequence[int], known: int) -> Tensor:
        states = states_of(reference, tokens[: known - 1], layers)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        own = torch.zeros(32)
        for at in range(len(tokens) - 1):
            if at < known - 1:
                given = rms(states[at], w["input_norm.weight"]) if options.get("norm_before_fc") else states[at]
                feature = w["fc.weight"] @ given
            else:
                feature = own
            normed = rms(feature, w["midlayer.hidden_norm.weight"])
            both = torch.cat((rms(embeddings[tokens[at + 1]], w["midlayer.input_layernorm.weight"]), normed))
            q, k, v = ((w[f"midlayer.self_attn.{name}_proj.weight"] @ both).view(-1, 8) for name in ("q", "k", "v"))
            keys.append(rotated(k, at))
            values.append(v)
            own = normed if options.get("norm_before_residual") else feature
            own = own + w["midlayer.self_attn.o_proj.weight"] @ attended(rotated(q, at), keys, values)
            x = rms(own, w["midlayer.post_attention_layernorm.weight"])
            gate = w["midlayer.mlp.gate_proj.weight"] @ x
            up = w["midlayer.mlp.up_proj.weight"] @ x
            own = own + w["midlayer.mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)
        logits = w["lm_head.weight"] @ rms(own, w["norm.weight"])
        if "d2t" not in w:
            return logits
        full = torch.full((LOGITS,), IMPOSSIBLE)
        for i, offset in enumerate(w["d2t"].tolist()):
            full[i + offset] = logits[i]
        return full

    return plain


@pytest.mark.parametrize("name", CASES)
def test_guesses(name: str, engine: TransformersEngine, reference: Reference, tmp_path: Path) -> None:
    options = dict(CASES[name])
    layers = options.pop("layers")
    head = load.load(engine, tiny_heads.eagle3(tmp_path, 32, LOGITS, layers, **options))
    goes_right(engine, head, 4, plain_of(tmp_path, reference, layers, options))


def test_long_prompts_are_read_in_pieces(
    engine: TransformersEngine, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_UNREAD", 3)
    head = load.load(engine, tiny_heads.eagle3(tmp_path, 32, LOGITS, [0, 1, 2]))
    goes_right(engine, head, 3, plain_of(tmp_path, reference, [0, 1, 2], {}))


def test_what_is_wrong_with_a_head(engine: TransformersEngine, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"wants the inputs of layers \[0, 1, 3\]"):
        load.load(engine, tiny_heads.eagle3(tmp_path / "a", 32, LOGITS, [0, 1, 3]))
    path = tiny_heads.eagle3(tmp_path / "b", 32, LOGITS, [0, 1, 2], num_attention_heads=3)
    with pytest.raises(ModelError, match=r"q_proj.weight has the shape"):
        load.load(engine, path)
    with pytest.raises(ModelError, match=r"d2t names tokens"):
        load.load(engine, tiny_heads.eagle3(tmp_path / "c", 32, 2 * LOGITS, [0, 1, 2]))
