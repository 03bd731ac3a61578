"""What a head uses of its target, and the last hidden state of each slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from duo.engines.base import Logits
from duo.engines.heads import Tip
from duo.engines.transformers.engine import TransformersEngine
from duo.errors import ModelError

IMPOSSIBLE = -1e30
"""The logit of a token that a head cannot guess. It is finite, so that a grammar may leave no other."""


class Target:
    """The target's embedding and its projection to the vocabulary."""

    def __init__(self, engine: TransformersEngine) -> None:
        model = engine.runner.model
        self.engine = engine
        self.model = model
        self.name = engine.name
        self.size = engine.vocabulary.size
        self.config = model.config.get_text_config(decoder=True)
        self.hidden = int(self.config.hidden_size)
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self._embedding, self._projection = model.get_input_embeddings(), model.get_output_embeddings()

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """[tokens, hidden]."""
        states: Tensor = self._embedding(torch.tensor(tokens, device=self.device))
        return states

    def project(self, states: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of states [rows, hidden] after the last norm."""
        logits: Tensor = self._projection(states)
        return logits

    def check_hidden(self, size: int, what: str) -> None:
        """Raises ModelError if a head was made for states of another size."""
        if size != self.hidden:
            raise ModelError(
                f"the {what} was made for hidden states of {size} numbers, and {self.name} has {self.hidden}: take a "
                "head that was made for this target"
            )


class LastStates:
    """A tap that keeps the last state of each slot."""

    layers: Sequence[int] = ()

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, Tensor]] = {}
        """The state and its position, by slot."""

    def committed(self, slot: int, start: int, tokens: Sequence[int], states: Tensor) -> None:
        if len(tokens):
            self._last[slot] = start + len(tokens) - 1, states[-1].clone()

    def cut(self, slot: int, length: int) -> None:
        if slot in self._last and self._last[slot][0] >= length:
            del self._last[slot]

    def shared(self, source: int, target: int, length: int) -> None:
        if source in self._last and self._last[source][0] == length - 1:
            self._last[target] = self._last[source]

    def of(self, tips: Iterable[Tip]) -> dict[int, Tensor]:
        """The states of the tokens before the last ones, by slot, as far as they are known."""
        known = {tip.slot: (len(tip.tokens) - 2, self._last.get(tip.slot)) for tip in tips}
        return {slot: last[1] for slot, (at, last) in known.items() if last is not None and last[0] == at}


def by_slot(slots: Iterable[int], logits: Tensor, size: int) -> Mapping[int, Logits]:
    """Logits [slots, tokens that the head knows] for the lead, which has `size` tokens."""
    if logits.shape[1] < size:
        logits = nn.functional.pad(logits, (0, size - logits.shape[1]), value=IMPOSSIBLE)
    rows: Logits = logits[:, :size].to(device="cpu", dtype=torch.float32).numpy()
    return dict(zip(slots, rows, strict=True))
