"""The memory of recurrent layers of one shape: states, and what live rows would put into them."""

from __future__ import annotations

from torch import Tensor


class Bank:
    """Layers of one shape."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.window: Tensor | None = None
        """[layers, slots, kernel - 1, channels]: the latest inputs of the convolutions."""
        self.inputs: Tensor | None = None
        """[layers, live rows, channels]"""
        self.state: Tensor | None = None
        """[layers, slots, groups, heads, key, value]"""
        self.k: Tensor | None = None
        """[layers, live rows, groups, key]"""
        self.u: Tensor | None = None
        """[layers, live rows, groups, heads, value]"""
        self.decay: Tensor | None = None
        """[layers, live rows, groups, heads]: g summed along the row's path. If rows go step by step: what a state is
        multiplied by, or g itself where there is a rate."""
        self.stepwise = False
        """Whether rows go step by step in any case, since parts of a state decay each by itself."""
        self.rates: dict[int, Tensor] = {}
        """By layer, where g is to be multiplied by a rate."""
        self.windows: dict[tuple[int, int], Tensor] = {}
        """By slot and layer, what a piece of the pass under way leaves."""
        self.states: dict[tuple[int, int], Tensor] = {}
        self.marked: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
        """By slot and number of tokens, what all layers had at a mark within a piece: windows and states."""

    def live(self) -> list[tuple[str, Tensor]]:
        named = [("inputs", self.inputs), ("k", self.k), ("u", self.u), ("decay", self.decay)]
        return [(name, tensor) for name, tensor in named if tensor is not None]

    def lasting(self) -> list[Tensor]:
        return [tensor for tensor in (self.window, self.state) if tensor is not None]
