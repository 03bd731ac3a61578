"""Tiny hybrids whose checkpoints have a layer for multi-token prediction, and what that layer guesses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.kinds import KINDS, checkpoint, vocabulary
from duo.engines.transformers.engine import TransformersEngine
from tests.support import tiny_heads
from tests.support.reference import Reference, engine_of
from tests.support.tiny_heads import attended, rms, rotated
from tests.support.told_heads import Guess, states_of


def write(name: str, folder: Path, split: bool = False) -> Reference:
    """A tiny hybrid whose checkpoint has such a layer. split: a matrix for each expert."""
    checkpoint.write(KINDS[name], folder, 3)
    vocabulary.write(folder)
    reference = Reference(str(folder))
    layer = dict(reference.model.model.layers[3].state_dict())
    if split:
        stacked = layer.pop("mlp.experts.gate_up_proj"), layer.pop("mlp.experts.down_proj")
        for i, (both, down) in enumerate(zip(*stacked, strict=True)):
            gate, up = both.chunk(2)
            layer |= {f"mlp.experts.{i}.{n}_proj.weight": t for n, t in (("gate", gate), ("up", up), ("down", down))}
    tiny_heads.mtp(folder, layer, 64)
    return reference


def make(name: str, folder: Path, split: bool = False) -> tuple[TransformersEngine, Reference]:
    """The same, and an engine over it."""
    reference = write(name, folder, split)
    return engine_of(str(folder), slots=3, tree_rows=16, batch=8), reference


def input_of(w: dict[str, Tensor], reference: Reference, state: Tensor, token: int) -> Tensor:
    embedding = reference.model.model.embed_tokens.weight.detach()[token]
    normed = rms(embedding, 1 + w["pre_fc_norm_embedding.weight"]), rms(state, 1 + w["pre_fc_norm_hidden.weight"])
    return w["fc.weight"] @ torch.cat(normed)


def mtp_weights(folder: Path) -> dict[str, Tensor]:
    weights = load_file(folder / "model-mtp.safetensors")
    return {name.removeprefix("mtp."): tensor for name, tensor in weights.items()}


def plain_of(folder: Path, reference: Reference) -> Guess:
    """Qwen3.5's layer, row by row."""
    w, config = mtp_weights(folder), reference.model.config
    dim, heads = config.head_dim, config.num_attention_heads
    rope: Any = config.rope_parameters
    at_, mlp_ = "layers.0.self_attn.", "layers.0.mlp."

    def plain(tokens: Sequence[int], known: int) -> Tensor:
        states = states_of(reference, tokens[: known - 1])
        keys: list[Tensor] = []
        values: list[Tensor] = []
        own = torch.zeros(64)
        for at in range(len(tokens) - 1):
            x = input_of(w, reference, states[at] if at < known - 1 else own, tokens[at + 1])
            normed = rms(x, 1 + w["layers.0.input_layernorm.weight"])
            query, gate = (w[f"{at_}q_proj.weight"] @ normed).view(heads, 2, dim).unbind(1)
            query = rms(query, 1 + w[f"{at_}q_norm.weight"])
            key = rms((w[f"{at_}k_proj.weight"] @ normed).view(-1, dim), 1 + w[f"{at_}k_norm.weight"])
            turn = at + 1, rope["rope_theta"], rope["partial_rotary_factor"]
            keys.append(rotated(key, *turn))
            values.append((w[f"{at_}v_proj.weight"] @ normed).view(-1, dim))
            seen = attended(rotated(query, *turn), keys, values) * torch.sigmoid(gate.flatten())
            x = x + w[f"{at_}o_proj.weight"] @ seen
            normed = rms(x, 1 + w["layers.0.post_attention_layernorm.weight"])
            up = w[f"{mlp_}gate_proj.weight"] @ normed
            x = x + w[f"{mlp_}down_proj.weight"] @ (up * torch.sigmoid(up) * (w[f"{mlp_}up_proj.weight"] @ normed))
            own = rms(x, 1 + w["norm.weight"])
        logits: Tensor = reference.model.lm_head.weight.detach() @ own
        return logits

    return plain
