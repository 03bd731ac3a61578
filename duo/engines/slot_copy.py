"""A slot's memory outside of the runtime: what `Engine.save` gives and `Engine.restore` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class SlotCopy(NamedTuple):
    """What a slot holds.

    length: committed tokens. arrays: keys, values and states, by names that the engine chooses. notes: what else the
    engine must know, of JSON's types. lengths: to which a slot with this memory can be cut, rising; None: to any.
    """

    length: int
    arrays: Arrays
    notes: Mapping[str, Any]
    lengths: Sequence[int] | None = None

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def restorable(self, length: int) -> int:
        """How many tokens `Engine.truncate` to `length` would leave in a slot with this memory."""
        if self.lengths is None:
            return min(length, self.length)
        return max((cut for cut in self.lengths if cut <= length), default=0)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """An array of bytes by its name. Raises ValueError if there is none."""
        found = self.arrays.get(name)
        if found is None:
            raise ValueError(f"{name} is missing")
        if found.dtype != np.uint8 or found.ndim != 1:
            raise ValueError(f"{name} is no row of bytes")
        return found
