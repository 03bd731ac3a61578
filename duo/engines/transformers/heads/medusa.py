"""Medusa heads (Cai et al. 2401.10774): head i guesses the token i + 2 positions after a hidden state.

In version 1 each head has residual blocks and a projection of its own to the vocabulary. In version 2 it has one block,
and the target's projection. FasterDecoding made the format; text-generation-inference reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from duo.engines.base import Logits
from duo.engines.heads import Tip
from duo.engines.transformers.heads.checkpoint import Checkpoint
from duo.engines.transformers.heads.target import LastStates, Target, by_slot
from duo.engines.transformers.packed import pack

PREFIX = "medusa_head."
"""Some checkpoints have it before the number of the head."""


class _Head(nn.Module):
    """Blocks x + silu(linear(x)), and a projection; None: the target's own."""

    def __init__(self, blocks: Sequence[nn.Linear], project: nn.Linear | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.project = project

    def forward(self, states: Tensor) -> Tensor:
        for block in self.blocks:
            states = states + nn.functional.silu(block(states))
        return states if self.project is None else self.project(states)


class Medusa:
    """Guesses of different heads do not depend on each other: `step` ignores the tokens."""

    def __init__(self, target: Target, checkpoint: Checkpoint) -> None:
        """Raises ModelError."""
        self._target, self._tap = target, LastStates()
        count, layers = checkpoint.number("medusa_num_heads"), checkpoint.number("medusa_num_layers", 1)
        begin = PREFIX if f"{PREFIX}0.0.linear.weight" in checkpoint else ""
        target.check_hidden(checkpoint.get(f"{begin}0.0.linear.weight").shape[-1], checkpoint.what)
        # Version 2 has nothing behind the first block.
        own = f"{begin}0.{layers}.weight" in checkpoint
        heads = [_read(checkpoint, f"{begin}{i}.", layers if own else 1, own, target) for i in range(count)]
        self._heads = nn.ModuleList(heads).eval()
        if target.device.type == "cpu":
            pack(self._heads)
        self.depth = count
        self.name = f"{count} Medusa heads"
        self._states: dict[int, Tensor] = {}
        self._at = 0
        target.engine.watch(self._tap)

    def begin(self, tips: Sequence[Tip]) -> Mapping[int, Logits]:
        """See `Head`."""
        self._at, self._states = 0, self._tap.of(tips)
        return self._guess(list(self._states))

    def step(self, tokens: Mapping[int, int]) -> Mapping[int, Logits]:
        """See `Head`."""
        self._at += 1
        return self._guess(list(tokens))

    def _guess(self, slots: Sequence[int]) -> Mapping[int, Logits]:
        if not slots:
            return {}
        with torch.inference_mode():
            head = self._heads[self._at]
            logits = head(torch.stack([self._states[slot] for slot in slots]))
            if head.project is None:
                logits = self._target.project(logits)
            return by_slot(slots, logits, self._target.size)


def _read(checkpoint: Checkpoint, prefix: str, layers: int, own: bool, target: Target) -> _Head:
    size = target.hidden
    blocks = list[nn.Linear]()
    for j in range(layers):
        name = f"{prefix}{j}.linear"
        blocks.append(linear(checkpoint.get(f"{name}.weight", size, size), checkpoint.get(f"{name}.bias", size)))
    return _Head(blocks, linear(checkpoint.get(f"{prefix}{layers}.weight", target.size, size)) if own else None)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
