"""EAGLE-3 (Li et al. 2503.01840): one decoder layer over states of three of the target's layers.

Its attention takes the embedding of a token and the features beside each other. Its vocabulary may be a part of the
target's. SpecForge, AngelSlim, vLLM and RedHat's speculators write such checkpoints, under two families of names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from duo.engines.transformers.heads.checkpoint import Checkpoint
from duo.engines.transformers.heads.medusa import linear
from duo.engines.transformers.heads.reader import Reader
from duo.engines.transformers.heads.target import IMPOSSIBLE, Target
from duo.engines.transformers.packed import pack
from duo.errors import ModelError

NESTED = "transformer_layer_config"
"""Where RedHat's speculators keep the numbers of the layer."""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as one level."""
    return {**config.get(NESTED, {}), **config, **config.get("eagle_config", {})}


def renamed(name: str) -> str:
    """A tensor's name in the family of SpecForge, which AngelSlim shares."""
    return name.removeprefix("model.").replace("layers.0.", "midlayer.", 1)


class _Norm(nn.Module):
    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, states: Tensor) -> Tensor:
        wide = states.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(states.dtype) * self.weight


class _Shape(NamedTuple):
    """Numbers of the layer. taken: how many numbers of the target's states a row takes."""

    width: int
    heads: int
    key_heads: int
    dim: int
    epsilon: float
    taken: int


class Eagle3(Reader):
    """The head. Its own state is that before its last norm."""

    def __init__(self, target: Target, checkpoint: Checkpoint) -> None:
        """`checkpoint`: with a config of one level, and names as in SpecForge's family. Raises ModelError."""
        super().__init__(target, "an EAGLE-3 head")
        config = checkpoint.config
        if config.get("use_aux_hidden_state", True):
            layers = int(target.config.num_hidden_layers)
            self.layers = [*(config.get("eagle_aux_hidden_state_layer_ids") or [2, layers // 2, layers - 3])]
        target.check_hidden(checkpoint.number("target_hidden_size", 0) or target.hidden, checkpoint.what)
        self._shape = shape = _shape_of(checkpoint, target.hidden * max(1, len(self.layers)))
        self._norm_first = bool(config.get("norm_before_residual", False))
        self._parts = _parts_of(checkpoint, shape)
        self._act = ACT2FN[config.get("hidden_act", "silu")]
        self._embedding = checkpoint.get("embed_tokens.weight") if "embed_tokens.weight" in checkpoint else None
        if self._embedding is None:
            target.check_hidden(shape.width, checkpoint.what)
        self._ids = _target_ids(checkpoint, len(checkpoint.get("lm_head.weight")), target)
        rotary = {key: config[key] for key in ("rope_theta", "rope_scaling", "rope_parameters") if key in config}
        llama: Any = LlamaConfig
        self._rotary = LlamaRotaryEmbedding(
            llama(
                hidden_size=shape.width, num_attention_heads=shape.heads, head_dim=shape.dim,
                max_position_embeddings=checkpoint.number("max_position_embeddings", 2048), **rotary,
            )
        ).to(target.device)  # fmt: skip
        if target.device.type == "cpu":
            pack(self._parts)
        target.engine.watch(self)

    def features(self, states: Tensor) -> Tensor:
        if "input_norm" in self._parts:
            states = self._parts["input_norm"](states)
        if "fc" in self._parts:
            states = self._parts["fc"](states)
        return states

    def embed(self, tokens: Sequence[int]) -> Tensor:
        if self._embedding is None:
            return self.target.embed(tokens)
        states: Tensor = self._embedding[torch.tensor(tokens, device=self._embedding.device)]
        return states

    def run(self, embedded: Tensor, features: Tensor, positions: Tensor) -> Tensor:
        parts, shape = self._parts, self._shape
        normed = parts["hidden_norm"](features)
        residual = normed if self._norm_first else features
        given = torch.cat((parts["input_layernorm"](embedded), normed), -1)
        query, key, value = (parts[name](given) for name in ("q_proj", "k_proj", "v_proj"))
        rows = len(given)
        cos, sin = self._rotary(value, positions[None])
        query = _rotated(query.view(rows, shape.heads, -1).transpose(0, 1), cos, sin)
        key = _rotated(key.view(rows, shape.key_heads, -1).transpose(0, 1), cos, sin)
        seen = self.keys.attend(query, key, value.view(rows, shape.key_heads, -1).transpose(0, 1))
        states: Tensor = parts["o_proj"](seen) + residual
        normed = parts["post_attention_layernorm"](states)
        added: Tensor = parts["down_proj"](self._act(parts["gate_proj"](normed)) * parts["up_proj"](normed))
        return states + added

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self._parts["lm_head"](self._parts["norm"](states))
        if self._ids is None:
            return logits
        full = logits.new_full((len(logits), self.target.size), IMPOSSIBLE)
        return full.index_copy(1, self._ids, logits)


def _shape_of(checkpoint: Checkpoint, taken: int) -> _Shape:
    width, heads = checkpoint.number("hidden_size"), max(1, checkpoint.number("num_attention_heads"))
    dim = checkpoint.number("head_dim", 0) or width // heads
    epsilon = float(checkpoint.config.get("rms_norm_eps", 1e-6))
    return _Shape(width, heads, checkpoint.number("num_key_value_heads", heads), dim, epsilon, taken)


def _parts_of(checkpoint: Checkpoint, shape: _Shape) -> nn.ModuleDict:
    """Norms and matrices, by their last names."""
    parts = nn.ModuleDict()

    def norm(path: str, size: int = shape.width) -> None:
        parts[path.rpartition(".")[2]] = _Norm(checkpoint.get(f"{path}.weight", size), shape.epsilon)

    def matrix(path: str, inputs: int, outputs: int = 0) -> None:
        weight = checkpoint.get(f"{path}.weight", *([outputs, inputs] if outputs else []))
        if weight.dim() != 2 or weight.shape[1] != inputs:
            raise ModelError(f"{checkpoint.what}: {path} does not take {inputs} numbers: get the whole head again")
        bias = checkpoint.get(f"{path}.bias", len(weight)) if f"{path}.bias" in checkpoint else None
        parts[path.rpartition(".")[2]] = linear(weight, bias)

    width, taken = shape.width, shape.taken
    if "fc.weight" in checkpoint or taken != width:
        matrix("fc", taken, width)
    if checkpoint.config.get("norm_before_fc", False):
        norm("input_norm", taken)
    for name in ("midlayer.input_layernorm", "midlayer.hidden_norm", "midlayer.post_attention_layernorm", "norm"):
        norm(name)
    for name, heads in (("q_proj", shape.heads), ("k_proj", shape.key_heads), ("v_proj", shape.key_heads)):
        matrix(f"midlayer.self_attn.{name}", 2 * width, heads * shape.dim)
    matrix("midlayer.self_attn.o_proj", shape.heads * shape.dim, width)
    matrix("midlayer.mlp.gate_proj", width)
    matrix("midlayer.mlp.up_proj", width)
    matrix("midlayer.mlp.down_proj", len(checkpoint.get("midlayer.mlp.up_proj.weight")), width)
    matrix("lm_head", width)
    return parts


def _target_ids(checkpoint: Checkpoint, size: int, target: Target) -> Tensor | None:
    """The target's token for each of the head's; None if they are the same."""
    if "d2t" not in checkpoint:
        if size > target.size:
            raise ModelError(f"{checkpoint.what} has more tokens than {target.name}: take a head of this target")
        return None
    ids = torch.arange(size, device=target.device) + checkpoint.get("d2t", size)
    if int(ids.min()) < 0 or int(ids.max()) >= target.size or len(set(ids.tolist())) < size:
        raise ModelError(f"{checkpoint.what}: d2t names tokens that {target.name} lacks: take a head of this target")
    return ids


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of states [heads, rows, dim]; cos and sin [1, rows, dim]."""
    half = states.shape[-1] // 2
    return states * cos + torch.cat((-states[..., half:], states[..., :half]), -1) * sin
