"""The hidden states that a tap hears of, against those of a plain model, and the logits beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from duo.engines.base import ROOT, Chunk, Row
from duo.engines.exact.engine import ExactEngine
from duo.engines.exact.widths import WidthClass
from duo.engines.transformers.hidden import Tap
from duo.errors import ModelError
from tests.support.reference import Reference, engine_of


@dataclass
class Kept:
    """Keeps all that it hears of, by slot and position."""

    layers: Sequence[int]
    states: dict[int, dict[int, tuple[int, Tensor]]] = field(default_factory=dict)

    def committed(self, slot: int, start: int, tokens: Sequence[int], states: Tensor) -> None:
        assert len(tokens) == len(states)
        self.states.setdefault(slot, {}).update(enumerate(zip(tokens, states, strict=True), start))

    def cut(self, slot: int, length: int) -> None:
        of = self.states.get(slot, {})
        self.states[slot] = {at: known for at, known in of.items() if at < length}

    def shared(self, source: int, target: int, length: int) -> None:
        self.states[target] = {at: known for at, known in self.states[source].items() if at < length}

    def check(self, slot: int, tokens: Sequence[int], reference: Reference) -> None:
        with torch.inference_mode():
            run: Any = reference.model(
                input_ids=torch.tensor([list(tokens)]), use_cache=False, output_hidden_states=True
            )
        states = run.hidden_states
        wanted = torch.cat([states[n][0] for n in self.layers], -1) if self.layers else states[-1][0]
        assert [self.states[slot][at][0] for at in range(len(tokens))] == list(tokens)
        got = torch.stack([self.states[slot][at][1] for at in range(len(tokens))])
        np.testing.assert_allclose(got, wanted, atol=1e-4)


PROMPT = [(7 * i + 3) % 200 for i in range(19)]
TREE = [Row(0, 0, 50), Row(1, 0, 60, 0), Row(2, 0, 61, 0), Row(3, 0, 70, 2), Row(9, 1, 80)]


@pytest.mark.parametrize("layers", [(), (0, 1)])
def test_states_of_prompts_trees_cuts_and_shares(layers: Sequence[int], folder: str, reference: Reference) -> None:
    engine, plain = (engine_of(folder, slots=3, tree_rows=16, batch=8) for _ in range(2))
    tap = Kept(layers)
    engine.watch(tap)
    for it in (engine, plain):
        it.extend(0, PROMPT)
    logits = [it.forward(TREE, [Chunk(1, [5, 6])]) for it in (engine, plain)]
    assert np.array_equal(logits[0], logits[1]), "watching changes no bit"
    engine.commit(0, [0, 2, 3])
    engine.commit(1, [9])
    text = [*PROMPT, 50, 61, 70]
    tap.check(0, text, reference)
    tap.check(1, [5, 6, 80], reference)
    assert engine.share(0, 2, 20) == 20
    engine.forward([Row(0, 2, 33, ROOT), Row(1, 2, 34, 0)])
    engine.commit(2, [0])
    tap.check(2, [*text[:20], 33], reference)
    engine.truncate(0, 4)
    engine.extend(0, [9, 10])
    tap.check(0, [*text[:4], 9, 10], reference)


def test_rows_that_stay_live_are_committed_later(folder: str, reference: Reference) -> None:
    engine, tap = engine_of(folder), Kept(())
    engine.watch(tap)
    engine.forward([Row(0, 0, 50, ROOT), Row(1, 0, 60, 0)])
    engine.commit(0, [0], [1])
    engine.commit(0, [1])
    tap.check(0, [50, 60], reference)


def test_the_same_bits_are_watched_too(folder: str, reference: Reference) -> None:
    inner = engine_of(folder, chains=True, tree_rows=8)
    engine, tap = ExactEngine(inner, WidthClass(4, 4, 4, True)), Kept(())
    inner.watch(tap)
    engine.extend(0, PROMPT)
    engine.forward([Row(0, 0, 50), Row(1, 0, 60, 0), Row(2, 0, 61, 1)])
    engine.commit(0, [0])
    engine.forward([Row(0, 0, 51)])
    engine.commit(0, [0])
    tap.check(0, [*PROMPT, 50, 51], reference)


def test_a_layer_that_the_model_lacks(folder: str) -> None:
    tap: Tap = Kept((0, 2))
    with pytest.raises(ModelError, match=r"layers \[0, 2\], and the target has 2 layers"):
        engine_of(folder).watch(tap)
