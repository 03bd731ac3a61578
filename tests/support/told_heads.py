"""Tells a head of texts through its target's engine, and compares its guesses with a plain computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duo.engines.base import Engine, Row
from duo.engines.heads import Head, Tip
from tests.support.reference import Reference

Guess = Callable[[Sequence[int], int], Tensor]
"""Logits of the next token after these tokens, of which the first `known` are committed."""

PROMPTS = {0: [(7 * i + 3) % 200 for i in range(12)], 1: [9, 8, 7, 6], 2: [5, 50, 51]}


def states_of(reference: Reference, tokens: Sequence[int], layers: Sequence[int] = ()) -> Tensor:
    """Hidden states [tokens, width], as a tap hears of them."""
    with torch.inference_mode():
        run: Any = reference.model(input_ids=torch.tensor([list(tokens)]), use_cache=False, output_hidden_states=True)
    states = run.hidden_states
    return torch.cat([states[n][0] for n in layers], -1) if layers else states[-1][0]


def tell(engine: Engine, slot: int, tokens: Sequence[int]) -> None:
    """The slot's text goes on with these tokens: all are committed, but the last one."""
    engine.extend(slot, tokens[:-1])


def follow(head: Head, tips: Sequence[Tip], steps: int, plain: Guess) -> Mapping[int, list[int]]:
    """Let the head guess in these slots, and go on from its likeliest guesses. Each guess is checked."""
    texts = {tip.slot: list(tip.tokens) for tip in tips}
    known = {tip.slot: len(tip.tokens) for tip in tips}
    logits = head.begin(tips)
    assert logits.keys() == texts.keys()
    for at in range(steps):
        for slot, row in logits.items():
            np.testing.assert_allclose(row, plain(texts[slot], known[slot]), atol=1e-4)
            texts[slot].append(int(row.argmax()))
        if at + 1 < steps:
            logits = head.step({slot: text[-1] for slot, text in texts.items()})
    return {slot: text[known[slot] :] for slot, text in texts.items()}


def goes_right(engine: Engine, head: Head, steps: int, plain: Guess) -> None:
    """Prompts, accepted and rejected rows, a cut and a shared beginning. The head is right after each."""
    texts = {slot: list(tokens) for slot, tokens in PROMPTS.items()}
    for slot, tokens in texts.items():
        tell(engine, slot, tokens)
    follow(head, [Tip(slot, texts[slot]) for slot in (0, 2)], steps, plain)
    for at in range(2):  # one guess is right, one is wrong, and the target picks another
        rows = [Row(0, 0, texts[0][-1]), Row(1, 0, 40 + at, 0), Row(2, 0, 41 + at, 1), Row(3, 1, texts[1][-1])]
        engine.forward(rows)
        engine.commit(0, [0, 1])
        engine.commit(1, [3])
        texts[0] += [40 + at, 90]
        texts[1] += [30 + at]
        follow(head, [Tip(slot, texts[slot]) for slot in (1, 0)], steps, plain)
    shared = engine.share(0, 2, 9)
    assert not head.begin([Tip(2, texts[0][: shared + 1])]), "the state of a shared token may be unknown"
    engine.truncate(1, 0)
    tell(engine, 1, [4, 4, 5])
    engine.forward([Row(0, 1, 5)])
    engine.commit(1, [0])
    follow(head, [Tip(1, [4, 4, 5, 9])], steps, plain)
