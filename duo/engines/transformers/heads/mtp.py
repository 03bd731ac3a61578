"""The layer for multi-token prediction that Qwen3.5, Qwen3-Next and their kin carry in their own checkpoints.

It is one of the model's own decoder layers with full attention, over the normalised embedding of a token and the
normalised state of the token before. The model's own code runs it, so norms, gates and experts are as the model's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from duo.engines.transformers.heads.checkpoint import Checkpoint
from duo.engines.transformers.heads.keys import Keys
from duo.engines.transformers.heads.medusa import linear
from duo.engines.transformers.heads.reader import Reader
from duo.engines.transformers.heads.target import Target
from duo.engines.transformers.hidden import layers_of
from duo.engines.transformers.loading import FULL
from duo.engines.transformers.packed import pack
from duo.errors import ModelError, first_line

PREFIX = "mtp."
"""Of the names of its tensors."""
_ATTENTION, _KEYS = "duo_head", "duo_keys"
"""Name of the attention function, and the attribute of an attention layer that holds its keys."""


class Mtp(Reader):
    """The head. Its own state is that after its last norm."""

    def __init__(self, target: Target, checkpoint: Checkpoint) -> None:
        """Raises ModelError."""
        super().__init__(target, "the model's own layer for multi-token prediction")
        size = target.hidden
        self._fc = linear(checkpoint.get(f"{PREFIX}fc.weight", size, 2 * size))
        model = target.model.base_model
        layers = layers_of(model)
        kinds = getattr(target.config, "layer_types", None) or [FULL] * len(layers)
        if FULL not in kinds or len(kinds) != len(layers):
            raise ModelError(f"{checkpoint.what} needs a layer with full attention, which {target.name} lacks")
        number = kinds.index(FULL)
        like: Any = layers[number]
        config = copy.deepcopy(target.config)
        config._attn_implementation = _ATTENTION  # noqa: SLF001 - the library has no other way to set it unchecked
        kind: Any = type(like)
        with torch.device(target.device):
            layer = kind(config, number).to(target.dtype)
        norm: Any = type(like.input_layernorm)
        self._norms = nn.ModuleDict()
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            self._norms[name] = norm(size, eps=config.rms_norm_eps).to(device=target.device, dtype=target.dtype)
            self._norms[name].weight.data = checkpoint.get(f"{PREFIX}{name}.weight", size)
        _fill(layer, checkpoint, f"{PREFIX}layers.0.")
        setattr(layer.self_attn, _KEYS, self.keys)
        self._layer, self._rotary = layer.eval(), model.rotary_emb
        if target.device.type == "cpu":
            pack(self._layer)
        target.engine.watch(self)

    def features(self, states: Tensor) -> Tensor:
        return states

    def run(self, embedded: Tensor, features: Tensor, positions: Tensor) -> Tensor:
        norms = self._norms
        given = torch.cat(
            (norms["pre_fc_norm_embedding"](embedded), norms["pre_fc_norm_hidden"](features)), -1
        )  # fmt: skip
        states = self._fc(given)[None]
        at = positions[None] + 1
        output = self._layer(states, position_embeddings=self._rotary(states, at), position_ids=at)
        done: Tensor = norms["norm"](output if isinstance(output, Tensor) else output[0])[0]
        return done

    def logits(self, states: Tensor) -> Tensor:
        return self.target.project(states)


def _fill(layer: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Put the checkpoint's weights into the layer. Raises ModelError."""
    wanted = layer.state_dict()
    weights = {name: checkpoint.get(f"{prefix}{name}") for name in wanted if f"{prefix}{name}" in checkpoint}
    weights |= _experts(wanted, checkpoint, prefix)
    try:
        layer.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{checkpoint.what} does not fit the model's layers: {first_line(error)}; leave heads out of --speculation"
        ) from error


def _experts(wanted: Mapping[str, Tensor], checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """The matrices of experts, stacked as the library has them, where the checkpoint has one for each expert."""
    found: dict[str, Tensor] = {}
    for name, held in wanted.items():
        path, _, kind = name.rpartition(".")
        parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(kind, ())
        first = f"{prefix}{path}.0.{parts[0]}.weight" if parts else ""
        if path.endswith("experts") and first in checkpoint:
            each = [
                torch.cat([checkpoint.get(f"{prefix}{path}.{i}.{part}.weight") for part in parts])
                for i in range(len(held))
            ]
            found[name] = torch.stack(each)
    return found


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """An attention function of the library. query [1, heads, rows, dim] -> [1, rows, heads, dim]."""
    keys: Keys = getattr(module, _KEYS)
    seen = keys.attend(query[0], key[0], value[0], scaling)
    return seen.view(1, query.shape[2], query.shape[1], -1), None


_functions: Any = AttentionInterface
_registered: Callable[..., tuple[Tensor, None]] = _attend
_functions.register(_ATTENTION, _registered)
