"""MLP speculators (Wertheimer et al. 2404.19124): a small recurrent network over a state and the tokens after it.

Each step mixes the state with the embedding of the last token. ibm-fms made the format; text-generation-inference and
vLLM read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from duo.engines.base import Logits
from duo.engines.heads import Tip
from duo.engines.transformers.heads.checkpoint import Checkpoint
from duo.engines.transformers.heads.medusa import linear
from duo.engines.transformers.heads.target import LastStates, Target, by_slot
from duo.engines.transformers.packed import pack
from duo.errors import ModelError

EPSILON = 1e-6


class _Step(nn.Module):
    """One step: (state [rows, width], embedding [rows, inner]) -> the next state, which `head` projects."""

    def __init__(self, project: nn.Linear, embedding: Tensor, scale: Tensor, shift: Tensor, head: nn.Linear) -> None:
        super().__init__()
        self.project, self.head = project, head
        self.embedding, self.scale, self.shift = embedding, scale, shift

    def forward(self, state: Tensor, tokens: Tensor, weight: float, of_embedding: float) -> Tensor:
        state = self.project(state) * weight + self.embedding[tokens] * of_embedding
        return nn.functional.gelu(_normalised(state) * self.scale + self.shift)


def _normalised(state: Tensor) -> Tensor:
    return state * torch.rsqrt(state.pow(2).mean(-1, keepdim=True) + EPSILON)


class MLPSpeculator:
    """The state of each slot goes from step to step."""

    def __init__(self, target: Target, checkpoint: Checkpoint) -> None:
        """Raises ModelError."""
        self._target, self._tap = target, LastStates()
        count, size = checkpoint.number("n_predict"), checkpoint.number("emb_dim", target.hidden)
        target.check_hidden(size, checkpoint.what)
        inner = checkpoint.number("inner_dim", 0) or size
        if checkpoint.number("vocab_size", target.size) > target.size:
            raise ModelError(f"{checkpoint.what} has more tokens than {target.name}: take a head of this target")
        self._weight = 0.5 ** (0.5 / count)
        self._of_embedding = math.sqrt((1 - self._weight**2) * inner / 2)
        self._scales = bool(checkpoint.config.get("scale_input", False))
        tied = bool(checkpoint.config.get("tie_weights", False))
        prefix = "speculator." if "speculator.head.0.weight" in checkpoint else ""

        def get(name: str, number: int, part: str, *shape: int) -> Tensor:
            return checkpoint.get(f"{prefix}{name}.{number}.{part}", *shape)

        steps = [
            _Step(
                linear(get("proj", min(i, 1) if tied else i, "weight", inner, size if i == 0 else inner)),
                get("emb", 0 if tied else i, "weight"),
                get("ln", 0 if tied else i, "weight", inner),
                get("ln", 0 if tied else i, "bias", inner),
                linear(get("head", 0 if tied else i, "weight")),
            )
            for i in range(count)
        ]
        self._steps = nn.ModuleList(steps).eval()
        if target.device.type == "cpu":
            pack(self._steps)
        self.depth = count
        self.name = f"an MLP speculator of {count} steps"
        self._states: dict[int, Tensor] = {}
        self._at = 0
        target.engine.watch(self._tap)

    def begin(self, tips: Sequence[Tip]) -> Mapping[int, Logits]:
        """See `Head`."""
        self._at, self._states = 0, self._tap.of(tips)
        if self._scales:
            with torch.inference_mode():
                self._states = {slot: _normalised(it) / math.sqrt(2) for slot, it in self._states.items()}
        return self._guess({tip.slot: tip.tokens[-1] for tip in tips if tip.slot in self._states})

    def step(self, tokens: Mapping[int, int]) -> Mapping[int, Logits]:
        """See `Head`."""
        self._at += 1
        return self._guess(tokens)

    def _guess(self, tokens: Mapping[int, int]) -> Mapping[int, Logits]:
        if not tokens:
            return {}
        with torch.inference_mode():
            step: Any = self._steps[self._at]
            last = torch.tensor([*tokens.values()], device=self._target.device)
            given = torch.stack([self._states[slot] for slot in tokens])
            states = step(given, last.clamp(max=len(step.embedding) - 1), self._weight, self._of_embedding)
            self._states = dict(zip(tokens, states, strict=True))
            return by_slot(tokens, step.head(states), self._target.size)
