"""The memory of recurrent layers of one shape: their states, and what live rows would change in them."""

from __future__ import annotations

from torch import Tensor


class Bank:
    """Tensors of all layers of one shape. They are None until the first forward pass."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.window: Tensor | None = None
        """[layers, slots, kernel - 1, channels]: the latest inputs of the convolutions."""
        self.inputs: Tensor | None = None
        """[layers, live rows, channels]: inputs of the convolutions."""
        self.state: Tensor | None = None
        """[layers, slots, groups, heads, key, value]"""
        self.k: Tensor | None = None
        """[layers, live rows, groups, key]"""
        self.u: Tensor | None = None
        """[layers, live rows, groups, heads, value]"""
        self.decay: Tensor | None = None
        """[layers, live rows, groups, heads]: g summed along the row's path.

        If rows go step by step: the factor of a state, or g itself if there is a rate.
        """
        self.stepwise = False
        """Whether rows always go step by step, because parts of a state decay separately."""
        self.rates: dict[int, Tensor] = {}
        """The rate of each layer that has one: it multiplies g."""
        self.windows: dict[tuple[int, int], Tensor] = {}
        """By slot and layer: the window after a chunk of this pass."""
        self.states: dict[tuple[int, int], Tensor] = {}
        """By slot and layer: the state after a chunk of this pass."""
        self.marked: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
        """By slot and number of tokens: windows and states of all layers at a mark within a chunk."""

    def live(self) -> list[tuple[str, Tensor]]:
        named = [("inputs", self.inputs), ("k", self.k), ("u", self.u), ("decay", self.decay)]
        return [(name, tensor) for name, tensor in named if tensor is not None]

    def lasting(self) -> list[Tensor]:
        return [tensor for tensor in (self.window, self.state) if tensor is not None]
