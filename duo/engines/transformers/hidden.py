"""Hidden states of committed tokens, for heads that guess from them.

A tap says which states it wants, and hears of them when their tokens are committed. The model is only watched, by hooks
that read: its logits keep every bit. Without a tap there are no hooks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from duo.engines.base import Chunk, Row
from duo.errors import ModelError


class Tap(Protocol):
    """Takes hidden states in. `layers`: whose inputs are wanted, side by side; none: the state after the last norm,
    which the model projects to its vocabulary."""

    layers: Sequence[int]

    def committed(self, slot: int, start: int, tokens: Sequence[int], states: Tensor) -> None:
        """The slot has these tokens from position `start` on. states [tokens, width]."""

    def cut(self, slot: int, length: int) -> None:
        """The slot keeps its first `length` tokens. What comes after them may be other tokens."""

    def shared(self, source: int, target: int, length: int) -> None:
        """The slot `target`, which was empty, has the first `length` tokens of `source`."""


class Recorder:
    """Carries the states of each forward pass to a tap, as far as their tokens are committed."""

    def __init__(self) -> None:
        self._tap: Tap | None = None
        self._hooks: list[Any] = []
        self._seen: dict[int, Tensor] = {}
        """States [width, hidden] of the pass under way. Key: number of a layer, or -1 for the last state."""
        self._rows: dict[int, tuple[int, Tensor]] = {}
        """The token and the state of each live row."""

    def watch(self, model: Any, tap: Tap) -> None:
        """Watch the model for this tap, and for no other. Raises ModelError if the model has no such layers."""
        layers = layers_of(model.base_model)
        if tap.layers and not 0 <= min(tap.layers) <= max(tap.layers) < len(layers):
            raise ModelError(
                f"the head wants the inputs of layers {[*tap.layers]}, and the target has {len(layers)} layers to "
                "watch: take a head that was made for this target"
            )
        for hook in self._hooks:
            hook.remove()
        self._tap, self._rows = tap, {}
        if tap.layers:
            self._hooks = [
                layers[number].register_forward_pre_hook(self._watch(number), with_kwargs=True) for number in tap.layers
            ]
        else:
            self._hooks = [model.base_model.register_forward_hook(self._after)]

    def passed(
        self,
        rows: Sequence[Row],
        chunks: Sequence[Chunk],
        wanted: Sequence[int],
        spans: Sequence[tuple[int, int, int]],
        lengths: Mapping[int, int],
    ) -> None:
        """A forward pass is over. `wanted`: the index of each row in it. `spans`: slot, begin and end of each chunk.
        `lengths`: committed tokens of the chunks' slots, before the pass."""
        if self._tap is None or not self._seen:
            return
        if self._tap.layers:
            states = torch.cat([self._seen[number] for number in self._tap.layers], -1)
        else:
            states = self._seen[-1]
        self._seen = {}
        if len(states) != len(wanted) + sum(end - begin for _, begin, end in spans):
            return  # a model that computes fewer rows than it was given
        tokens = {chunk.slot: chunk.tokens for chunk in chunks}
        for slot, begin, end in spans:
            self._tap.committed(slot, lengths[slot], tokens[slot], states[begin:end])
        for row, index in zip(rows, wanted, strict=True):
            self._rows[row.id] = row.token, states[index]

    def committed(self, slot: int, start: int, path: Sequence[int], gone: Collection[int]) -> None:
        """The rows of `path` are committed tokens from position `start` on, and those of `gone` are dropped."""
        if self._tap is None:
            return
        for id in gone:
            self._rows.pop(id, None)
        taken = [row for id in path if (row := self._rows.pop(id, None)) is not None]
        if taken and len(taken) == len(path):
            tokens, states = zip(*taken, strict=True)
            self._tap.committed(slot, start, tokens, torch.stack(states))

    def cut(self, slot: int, length: int) -> None:
        """See `Tap`."""
        if self._tap is not None:
            self._tap.cut(slot, length)

    def shared(self, source: int, target: int, length: int) -> None:
        """See `Tap`."""
        if self._tap is not None:
            self._tap.shared(source, target, length)

    def _after(self, module: nn.Module, given: Any, output: Any) -> None:
        self._seen[-1] = (output if isinstance(output, Tensor) else output[0])[0]

    def _watch(self, number: int) -> Any:
        def before(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            states: Tensor = given[0] if given else named["hidden_states"]
            self._seen[number] = states[0]

        return before


def layers_of(base: Any) -> Sequence[nn.Module]:
    """The decoder layers of a model without its projection; none if they are not where libraries put them."""
    for owner in (base, getattr(base, "decoder", None)):
        for name in ("layers", "h"):
            if isinstance(found := getattr(owner, name, None), nn.ModuleList):
                return list(found)
    return []
