"""The recurrences agree with transformers' own, and with themselves however the tokens are grouped."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.mamba2 import modeling_mamba2 as mamba2
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

from duo.engines.transformers import recurrence
from duo.engines.transformers.recurrence import Earlier, Tokens

GROUPS, HEADS, KEY, VALUE = 2, 3, 8, 6


def random_tokens(rows: int, delta: bool, batch: int = 1, seed: int = 0) -> Tokens:
    torch.manual_seed(seed)
    q = torch.nn.functional.normalize(torch.randn(batch, GROUPS, rows, KEY), dim=-1)
    k = torch.nn.functional.normalize(torch.randn(batch, GROUPS, rows, KEY), dim=-1)
    v = torch.randn(batch, GROUPS, HEADS, rows, VALUE)
    g = -torch.rand(batch, GROUPS, HEADS, rows)
    return Tokens(q, k, v, g, torch.rand(batch, GROUPS, HEADS, rows) if delta else None)


def random_state(batch: int = 1) -> Tensor:
    torch.manual_seed(99)
    return torch.randn(batch, GROUPS, HEADS, KEY, VALUE)


def rows_of(tokens: Tokens, chosen: list[int]) -> Tokens:
    q, k, v, g, beta, _ = tokens
    return Tokens(
        q[:, :, chosen],
        k[:, :, chosen],
        v[:, :, :, chosen],
        g[..., chosen],
        None if beta is None else beta[..., chosen],
    )


def one_by_one(tokens: Tokens, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs, state = [], state.clone()
    for at in range(tokens.q.shape[2]):
        outputs.append(recurrence.step(rows_of(tokens, [at]), state)[0])
    return torch.cat(outputs, 3), state


def test_the_delta_rule_is_the_librarys() -> None:
    tokens, state = random_tokens(9, delta=True), random_state()
    assert tokens.beta is not None
    flat = [tokens.v.flatten(1, 2), tokens.g.flatten(1, 2), tokens.beta.flatten(1, 2)]
    q, k = (each.repeat_interleave(HEADS, 1).transpose(1, 2) for each in (tokens.q * KEY**0.5, tokens.k))
    v, g, beta = (each.transpose(1, 2) for each in flat)
    library: Any = qwen.torch_recurrent_gated_delta_rule
    expected, end = library(q, k, v, g=g, beta=beta, initial_state=state.flatten(1, 2), output_final_state=True)
    got, last = one_by_one(tokens, state)
    torch.testing.assert_close(got.flatten(1, 2).transpose(1, 2), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last.flatten(1, 2), end, atol=1e-5, rtol=1e-4)


def test_mamba_2_is_the_librarys() -> None:
    tokens, state = random_tokens(9, delta=False), random_state()
    a = -torch.rand(GROUPS * HEADS)
    dt = (tokens.g.flatten(1, 2) / a[:, None]).transpose(1, 2)
    x = tokens.v.flatten(1, 2).transpose(1, 2) / dt[..., None]
    library: Any = mamba2.mamba2_chunk_scan
    expected, end = library(
        x, dt, a, tokens.k.transpose(1, 2), tokens.q.transpose(1, 2), chunk_size=4,
        initial_states=state.flatten(1, 2).transpose(-1, -2), return_final_states=True,
    )  # fmt: skip
    got, last = one_by_one(tokens, state)
    torch.testing.assert_close(got.flatten(1, 2).transpose(1, 2), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last.flatten(1, 2).transpose(-1, -2), end, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("length", [1, 5, 64, 150])
def test_blocks_of_a_chain_are_its_steps(length: int, delta: bool) -> None:
    tokens, state = random_tokens(length, delta), random_state()
    expected, end = one_by_one(tokens, state)
    got, last = recurrence.chain(tokens, state)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last, end, atol=1e-5, rtol=1e-4)


PARENTS = [-1, 0, 0, 1, -1, 4, 3, 2]


def path_to(row: int) -> list[int]:
    path = []
    while row >= 0:
        path.append(row)
        row = PARENTS[row]
    return path[::-1]


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("split", [0, 1, 3, 7])
def test_a_row_of_a_tree_is_the_end_of_its_path(split: int, delta: bool) -> None:
    """Run a tree in one pass, or its first `split` rows in an earlier pass."""
    tokens, state = random_tokens(len(PARENTS), delta), random_state()
    sees = torch.zeros(1, len(PARENTS), len(PARENTS), dtype=torch.bool)
    for row in range(len(PARENTS)):
        sees[0, row, path_to(row)] = True
    outputs, earlier, above = [], None, None
    u = torch.zeros(0)
    decay = torch.zeros(0)
    for begin, end in itertools.pairwise(sorted({0, split, len(PARENTS)})):
        fresh = list(range(begin, end))
        if begin:
            earlier = Earlier(tokens.k[:, :, :begin], u, decay)
            last = [max((row for row in path_to(each) if row < begin), default=-1) for each in fresh]
            above = torch.stack([decay[..., row] if row >= 0 else 0 * decay[..., 0] for row in last], -1)
        o, fresh_u, fresh_decay = recurrence.tree(
            rows_of(tokens, fresh), state, sees[:, begin:end, :end], above, earlier
        )
        outputs.append(o)
        u = torch.cat((u, fresh_u), 3) if begin else fresh_u
        decay = torch.cat((decay, fresh_decay), 3) if begin else fresh_decay
    got = torch.cat(outputs, 3)
    for row in range(len(PARENTS)):
        path = path_to(row)
        expected, end_state = one_by_one(rows_of(tokens, path), state)
        torch.testing.assert_close(got[:, :, :, row], expected[:, :, :, -1], atol=1e-5, rtol=1e-4)
        taken = state.clone()
        recurrence.absorb(taken, tokens.k[:, :, path], u[:, :, :, path], decay[..., path])
        torch.testing.assert_close(taken, end_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("layers", [1, 5])
def test_a_replay_has_the_bits_of_the_steps(layers: int, delta: bool) -> None:
    """This holds for several layers in one call too."""
    tokens, state = random_tokens(5, delta, batch=layers), random_state(batch=layers)
    us, fades = [], []
    stepped = state.clone()
    for at in range(5):
        row = recurrence.row(tokens, at)
        apart = [Tokens(*(None if x is None else x[n : n + 1] for x in row)) for n in range(layers)]  # type: ignore[arg-type]
        made = [recurrence.step(each, stepped[n : n + 1]) for n, each in enumerate(apart)]
        us.append(torch.cat([u for _, u, _ in made]))
        fades.append(torch.cat([fade for _, _, fade in made]))
    u, fade = torch.cat(us, 3), torch.cat(fades, 3)
    for groups in ([5], [1, 4], [2, 2, 1]):
        replayed, begin = state.clone(), 0
        for count in groups:
            part = slice(begin, begin + count)
            recurrence.replay(replayed, fade[..., part], tokens.k[:, :, part], u[:, :, :, part])
            begin += count
        assert torch.equal(replayed, stepped)


def test_decays_of_each_part_of_a_state() -> None:
    """Kimi delta attention, and Mamba-1 with a rate, against plain sums."""
    plain = random_tokens(7, delta=False)
    steps = torch.rand(1, GROUPS, HEADS, 7, 1, VALUE)
    rate = -torch.rand(GROUPS, HEADS, KEY, VALUE)
    channels = -torch.rand(1, GROUPS, HEADS, 7, KEY, 1)
    for tokens, decay in (
        (plain._replace(g=steps, rate=rate), steps * rate[:, :, None]),
        (plain._replace(g=channels), channels.expand(-1, -1, -1, -1, -1, VALUE)),
    ):
        start = random_state()
        got, end = recurrence.chain(tokens, start)
        total = decay.cumsum(3)
        for at in range(7):
            state = start * total[:, :, :, at].exp()
            for before in range(at + 1):
                left = (total[:, :, :, at] - total[:, :, :, before]).exp()
                state = state + left * tokens.k[:, :, None, before, :, None] * tokens.v[:, :, :, before, None, :]
            expected = tokens.q[:, :, None, at, None, :] @ state
            torch.testing.assert_close(got[:, :, :, at], expected[..., 0, :], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(end, state, atol=1e-5, rtol=1e-4)
        assert tokens.wide
