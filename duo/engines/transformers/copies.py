"""Slots of the transformers engine as arrays of bytes, for the memory of the host and for files.

NumPy lacks some of torch's types. So an array holds the bytes of a tensor, and the notes have its type and shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duo.engines.slot_copy import SlotCopy
from duo.engines.transformers.arena import ArenaLayer, Places, Strip
from duo.engines.transformers.states import States
from duo.errors import ContextError


class Held(NamedTuple):
    """The tensors of a copy. layers: keys and values of each. states: as `States.read` gives them; empty without."""

    layers: Sequence[Sequence[Tensor]]
    states: Mapping[int, Sequence[Tensor]]

    @torch.inference_mode()
    def write(self, layers: Sequence[ArenaLayer], strip: Strip, states: States | None, slot: int) -> None:
        """Put them into an empty slot, whose tokens get the strip's places."""
        for layer, given in zip(layers, self.layers, strict=True):
            layer.write(strip, given)
        if states is not None:
            states.write(slot, self.states)


def size(layers: Sequence[ArenaLayer], length: int, states: States | None, slot: int) -> int:
    """Bytes of a copy of a slot of this length."""
    shapes = [each for layer in layers for each in layer.shapes(length)]
    held = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in shapes)
    return held + (states.bytes_per_slot * (1 + states.checkpoints(slot)) if states is not None else 0)


@torch.inference_mode()
def read(layers: Sequence[ArenaLayer], lane: int, places: Places, states: States | None, slot: int) -> SlotCopy:
    """A copy of the slot whose tokens lie at these places."""
    arrays: dict[str, NDArray[Any]] = {}
    shapes: dict[str, object] = {}
    kept = states.read(slot) if states is not None and len(places) else {}
    parts = {f"layer {i}": layer.read(lane, places) for i, layer in enumerate(layers)}
    for name, tensors in {**parts, **{f"state {length}": kept[length] for length in kept}}.items():
        for i, tensor in enumerate(tensors):
            # A tensor of the host is not copied again.
            arrays[f"{name} {i}"] = tensor.to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
            shapes[f"{name} {i}"] = [str(tensor.dtype), list(tensor.shape)]
    before = sorted(length for length in kept if length)
    lengths = [*before, len(places)] if states is not None else None
    return SlotCopy(len(places), arrays, {"tensors": shapes, "checkpoints": before}, lengths)


def unpack(copy: SlotCopy, layers: Sequence[ArenaLayer], states: States | None) -> Held:
    """The tensors of a copy, for these layers. Raises ContextError if they do not fit."""
    try:
        held = [_tensors(copy, f"layer {i}", layer.shapes(copy.length)) for i, layer in enumerate(layers)]
        before = [0, *copy.notes["checkpoints"]] if states is not None else []
        if not all(isinstance(length, int) and 0 <= length <= copy.length for length in before):
            raise ValueError("its checkpoints lie elsewhere")
        shapes = states.shapes() if states is not None else ()
        return Held(held, {length: _tensors(copy, f"state {length}", shapes) for length in before})
    except (ValueError, TypeError, LookupError) as error:
        raise ContextError(f"this copy of a slot does not fit: {error}") from None


def _tensors(copy: SlotCopy, name: str, shapes: Sequence[tuple[Sequence[int], torch.dtype]]) -> list[Tensor]:
    """Tensors with these shapes and types. Raises ValueError or LookupError if the copy has others."""
    found = []
    for i, (shape, kind) in enumerate(shapes):
        raw, wanted = copy.raw(f"{name} {i}"), [str(kind), list(shape)]
        if (known := copy.notes["tensors"][f"{name} {i}"]) != wanted or raw.nbytes != int(
            np.prod(shape)
        ) * kind.itemsize:
            raise ValueError(f"{name} is {known}, not {wanted}")
        # Torch warns of arrays that it may not write to, as those of files are.
        found.append(torch.from_numpy(raw if raw.flags.writeable else raw.copy()).view(kind).reshape(list(shape)))
    return found
