"""Proves at loading that a model computes the same through the engine as in a plain forward pass.

Models do not declare whether their code takes positions, a mask and a memory from outside. One that ignores them raises
no error; its text is just wrong. So short texts must give the same logits both ways. The engine reads them in chunks,
in trees with rows that must not be seen, over accepted rows, and beside another slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from duo.engines.base import ROOT, Chunk, Engine, Logits, Row

TOKENS = 12
"""Length of each text."""

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-6}
"""Largest relative error of the logits. Float32 gives 1e-6; half precision some per cent, and more where a mixture of
experts has a near tie. A model that sees the wrong tokens is far off."""

LOOSE_TOLERANCE = 0.25
"""The same for other types."""


def texts_of(vocabulary: int, count: int, length: int) -> list[list[int]]:
    """Different texts of `length` tokens."""
    return [[(3 + 4 * text + (5 + 6 * text) * at) % vocabulary for at in range(length)] for text in range(count)]


def references(model: Any, texts: Sequence[Sequence[int]], device: torch.device) -> list[Logits]:
    """The logits of the library's plain forward passes, [tokens, vocabulary] for each text."""
    made: list[Logits] = []
    for ids in texts:
        output = model(input_ids=torch.tensor([ids], device=device), use_cache=False)
        made.append(output.logits[0].float().cpu().numpy())
    return made


def error(engine: Engine, texts: Sequence[Sequence[int]], wanted: Sequence[Logits], places: int) -> float:
    """The relative error of the engine's logits. wanted: the logits of plain forward passes.

    Each text has its own slot. Its first half is read in chunks. The rest comes in rows, half of which are committed
    before the others come. places: tokens and rows that a slot takes. The slots are left empty.
    """
    length, slots = len(texts[0]), range(len(texts))
    half, name = length // 2, len(texts) * length
    middle = (half + length) // 2
    got: dict[tuple[int, int], Logits] = {}

    def run(begin: int, end: int, committed: int) -> None:
        """Run the rows `begin` to `end` of all slots. The slots have `committed` tokens."""
        pending = [(at, slot) for at in range(begin, end) for slot in slots]
        for first in range(0, len(pending), engine.batch):
            now = pending[first : first + engine.batch]
            rows = [
                Row(slot * length + at, slot, texts[slot][at], ROOT if at == committed else slot * length + at - 1)
                for at, slot in now
            ]
            got.update(zip(now, engine.forward(rows), strict=True))

    for slot, text in enumerate(texts):
        engine.extend(slot, text[: half - 1])
        chunks = [Chunk(slot, text[half - 1 : half])]
        if engine.batch == 1:
            engine.forward((), chunks)
            chunks = []
        got[half, slot] = engine.forward([Row(slot * length + half, slot, text[half])], chunks)[0]
        if places > length:
            # A row that the rows below must not see.
            engine.forward([Row(name + slot, slot, text[-1])])
    run(half + 1, middle, half)
    for slot in slots:
        engine.commit(slot, [slot * length + at for at in range(half, middle)])
    run(middle, length, middle)
    for slot in slots:
        engine.truncate(slot, 0)
    expected = np.stack([wanted[slot][at] for at, slot in got])
    return float(np.linalg.norm(np.stack(list(got.values())) - expected) / np.linalg.norm(expected - expected.mean()))
