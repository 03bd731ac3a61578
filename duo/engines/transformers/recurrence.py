"""The recurrences of linear attention and state space layers, over chains and trees of tokens.

Gated delta net (arXiv 2412.06464) and Mamba-2 (arXiv 2405.21060) update one state S per head with every token:

    S = exp(g) * S + k u^T,    o = S^T q

In Mamba-2 u is an input of the layer. The delta rule corrects what the state already says: u = beta (v - exp(g) S^T k).
So a live row is remembered by its k, its u and its decay, which is far less than a state. A row reads the committed
state once. It reads its ancestors as linear attention does, with the decay along its path between them. The u of a
tree's rows depend on each other along its paths. A triangular system gives them all at once, as TreeWY
(arXiv 2608.20961) does on trees and the papers do on chains.

Shapes: q and k [batch, groups, rows, key]; v and u [batch, groups, heads, rows, value]; g and beta [batch, groups,
heads, rows]; a state [batch, groups, heads, key, value]. The heads of a group share q and k. All are float32.

In Kimi delta attention (arXiv 2510.26692) each key channel has its own decay: g has further dimensions [key, 1]. In
Mamba-1 (arXiv 2312.00752) each entry of the state has its own: g, with further dimensions [1, value], is a step of time
that `rate` [groups, heads, key, value] multiplies. Such rows go step by step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 32
"""Tokens of a prompt per block. The state is written once per block."""


class Tokens(NamedTuple):
    """What rows bring to a recurrence. `beta` is None if v is already u. `rate` is None if g is the decay itself."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor | None
    rate: Tensor | None = None

    @property
    def wide(self) -> bool:
        """Whether parts of a state decay separately."""
        return self.g.dim() > 4


class Earlier(NamedTuple):
    """Live rows of earlier passes. decay [batch, groups, heads, rows]: g summed from the committed state on."""

    k: Tensor
    u: Tensor
    decay: Tensor


def tree(
    tokens: Tokens, state: Tensor, sees: Tensor, above: Tensor | None = None, earlier: Earlier | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All rows of a tree at once, parents before children.

    sees [batch, rows, earlier + rows]: whether a row sees that row: an ancestor, or itself.
    above [batch, groups, heads, rows]: decay of the nearest ancestor among the earlier rows; 0 without one.
    Returns o and u, shaped like v, and the decay from the committed state to each row, shaped like g.
    """
    q, k, v, g, beta, _ = tokens
    rows, before = q.shape[2], sees.shape[2] - q.shape[2]
    decay = g
    if rows > 1:
        decay = torch.einsum("bij,bghj->bghi", sees[:, :, before:].to(g.dtype), g)
    keys, decays = k, decay
    if earlier is not None:
        if above is not None:
            decay = decay + above
        keys, decays = torch.cat((earlier.k, k), 2), torch.cat((earlier.decay, decay), 3)
    both = torch.cat((q, k), 2) if beta is not None else q
    between = decay[..., :, None] - decays[..., None, :]
    between = between.masked_fill(~sees[:, None, None], float("-inf")).exp()
    weights = (both @ keys.transpose(2, 3)).unsqueeze(2)
    from_state = both.unsqueeze(2) @ state
    reach = decay.exp().unsqueeze(4)
    if beta is None:
        u = v
    else:
        learned = weights[:, :, :, rows:] * between
        u = v - reach * from_state[:, :, :, rows:]
        if earlier is not None:
            u = u - learned[..., :before] @ earlier.u
        u = beta.unsqueeze(4) * u
        if rows > 1:
            system = beta.unsqueeze(4) * learned[..., before:]
            u = torch.linalg.solve_triangular(system, u, upper=False, unitriangular=True)
    values = u if earlier is None else torch.cat((earlier.u, u), 3)
    o = reach * from_state[:, :, :, :rows] + (weights[:, :, :, :rows] * between) @ values
    return o, u, decay


def absorb(state: Tensor, k: Tensor, u: Tensor, decay: Tensor) -> None:
    """Update the state in place with a chain of rows that `tree` computed. decay: g summed up to each row."""
    end = decay[..., -1]
    u = u * (end.unsqueeze(3) - decay).exp().unsqueeze(4)
    state.mul_(end.exp()[..., None, None]).add_(k.transpose(2, 3).unsqueeze(2) @ u)


def chain(tokens: Tokens, state: Tensor, size: int = BLOCK) -> tuple[Tensor, Tensor]:
    """A long chain, block by block. Returns o, and the state after the chain."""
    length = tokens.q.shape[2]
    if tokens.wide:
        state = state.clone()
        return torch.cat([step(row(tokens, at), state)[0] for at in range(length)], 3), state
    size = min(size, length)
    blocks = -(-length // size)
    q, k = (_blocks(each, blocks, size, 2) for each in (tokens.q, tokens.k))
    v = _blocks(tokens.v, blocks, size, 3)
    decay = _blocks(tokens.g.unsqueeze(4), blocks, size, 3).squeeze(-1).cumsum(-1)
    # From here on shapes are [batch, groups, heads (1 where they share), blocks, rows, ...].
    q, k = q.unsqueeze(2), k.unsqueeze(2)
    hidden = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    between = (decay[..., :, None] - decay[..., None, :]).masked_fill(hidden, float("-inf")).exp()
    weights = (q @ k.transpose(-1, -2)) * between
    reach = decay.exp().unsqueeze(-1)
    correction = None
    u = v
    if tokens.beta is not None:
        beta = _blocks(tokens.beta.unsqueeze(4), blocks, size, 3)
        system = beta * (k @ k.transpose(-1, -2)) * between
        right = torch.cat((beta * v, beta * reach * k), -1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        u, correction = solved.split((v.shape[-1], k.shape[-1]), -1)
    fade = (decay[..., -1:] - decay).exp().unsqueeze(-1)
    kept = decay[..., -1].exp()[..., None, None]
    turned = k.transpose(-1, -2)
    outputs = []
    for at in range(blocks):
        here = u[:, :, :, at]
        if correction is not None:
            here = here - correction[:, :, :, at] @ state
        outputs.append(reach[:, :, :, at] * (q[:, :, :, at] @ state) + weights[:, :, :, at] @ here)
        state = kept[:, :, :, at] * state + turned[:, :, :, at] @ (fade[:, :, :, at] * here)
    return torch.cat(outputs, 3)[:, :, :, :length], state


def step(tokens: Tokens, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One row: updates the state in place. Returns o, u, and the decay in the form that `replay` takes.

    The shapes are the same for every row, whatever else its pass holds. So the bits are the same too.
    """
    k, v = tokens.k.transpose(2, 3), tokens.v
    fade = tokens.g if tokens.rate is not None else tokens.g.exp()
    state.mul_(_spread(fade[:, :, :, 0], tokens.rate))
    u = v
    if tokens.beta is not None:
        u = tokens.beta[..., None] * (v - tokens.k.unsqueeze(2) @ state)
    state.addcmul_(k.unsqueeze(2), u)
    return tokens.q.unsqueeze(2) @ state, u, fade


def replay(state: Tensor, fade: Tensor, k: Tensor, u: Tensor, rate: Tensor | None = None) -> None:
    """Update the state in place with a chain of rows, with the same bits as `step`.

    Several layers may lie side by side as a batch, unless there is a rate. Then exponentials are computed here too, and
    their bits depend on how much is computed at once.
    """
    for at in range(k.shape[2]):
        state.mul_(_spread(fade[:, :, :, at], rate))
        state.addcmul_(k[:, :, None, at, :, None], u[:, :, :, at, None, :])


def row(tokens: Tokens, at: int) -> Tokens:
    """One of the rows, copied: a product's bits depend on how its factors lie in memory."""
    q, k, v, g, beta, rate = tokens
    one = None if beta is None else beta[:, :, :, at : at + 1].contiguous()
    q, k = q[:, :, at : at + 1].contiguous(), k[:, :, at : at + 1].contiguous()
    return Tokens(q, k, v[:, :, :, at : at + 1].contiguous(), g[:, :, :, at : at + 1].contiguous(), one, rate)


def _spread(fade: Tensor, rate: Tensor | None) -> Tensor:
    """What a state is multiplied by when a row comes."""
    if rate is not None:
        return (fade * rate).exp()
    return fade if fade.dim() > 3 else fade[..., None, None]


def _blocks(x: Tensor, blocks: int, size: int, dim: int) -> Tensor:
    """Split a dimension of rows into blocks, padded with zeros: such rows change nothing."""
    missing = blocks * size - x.shape[dim]
    if missing:
        x = torch.nn.functional.pad(x, [0, 0] * (x.dim() - dim - 1) + [0, missing])
    return x.reshape(*x.shape[:dim], blocks, size, *x.shape[dim + 1 :])
