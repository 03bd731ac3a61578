"""Runs the recurrent layers of the library's models over many sequences and trees in one pass.

Each such layer projects its input, calls a causal convolution and mostly a recurrence by name, and projects the result.
The layer's own `forward` stays, but these names mean other functions in it. They know which rows belong to which
sequence, and keep the states (see `states`). So what differs from model to model (norms, gates, multipliers) stays the
library's. Names are bound for each layer of this model alone; nothing in the library changes.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.activations import ACT2FN

from duo.engines.base import Row
from duo.engines.transformers.arena import ArenaCache
from duo.engines.transformers.masks import Composed, Node, Slot
from duo.engines.transformers.paths import FreshRow, Span
from duo.engines.transformers.recurrence import Tokens
from duo.engines.transformers.states import States

CONVOLUTION = "causal_conv1d_fn"
DELTA_RULE = "torch_chunk_gated_delta_rule"
MAMBA_2 = "mamba2_chunk_scan"
MAMBA_1 = "mamba_selective_scan"
KIMI_DELTA_RULE = "chunk_kimi_delta_attention"
PADDING = "apply_mask_to_padding_states"
SCANS = frozenset({DELTA_RULE, MAMBA_2, MAMBA_1, KIMI_DELTA_RULE})

READERS = frozenset({"get_conv_state", "get_recurrent_state", "update_conv_state", "update_recurrent_state"})
"""Methods by which a layer of the library asks for its recurrent memory."""

OTHERS = {
    "ZambaMambaMixer": "Mamba-1 in heads",
    "MiniMaxLightningAttention": "lightning attention",
    "RecurrentGemmaRglru": "RG-LRU",
    "RwkvSelfAttention": "RWKV",
    "xLSTMCache": "xLSTM",
}
"""Recurrences that the engine cannot run, by a name in the library's code of such models."""

_NO_STATE = torch.empty(0)
"""What layers get as their last state. They put it into a cache that ignores it."""

_At = tuple[States, int, int]
"""Where a layer's memory is: the states, its bank, and its number in the bank."""


def begin(
    states: States,
    rows: Sequence[Row],
    fresh: Mapping[int, Node],
    live: Mapping[int, Node],
    slots: Sequence[Slot],
    composed: Composed,
) -> None:
    """Tell the memory of recurrent layers what a pass will run. `fresh`: its rows. `live`: those of earlier passes."""
    for row, place in zip(rows, states.places(len(rows)), strict=True):
        above = fresh.get(row.parent) or live.get(row.parent)
        fresh[row.id].memory = [*(above.memory if above is not None else ()), place]
    states.begin(
        [Span(slot, begin, end, slots[slot].length) for slot, begin, end in composed.spans],
        [FreshRow(row.slot, at, fresh[row.id].memory) for row, at in zip(rows, composed.wanted, strict=True)],
    )


def found(model: nn.Module) -> list[nn.Module]:
    """The model's recurrent layers, in order."""
    return [module for module in model.modules() if not READERS.isdisjoint(_names(module))]


def unserved(config: Any) -> str:
    """The model's recurrence if the engine cannot run it; else empty. Reads no weights."""
    maker: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    code = None if maker is None else sys.modules.get(maker.__module__)
    return next((kind for name, kind in OTHERS.items() if hasattr(code, name)), "")


def unknown(layers: Sequence[nn.Module]) -> str:
    """The first class of recurrent layers that the engine cannot run; empty if it can run all."""
    for layer in layers:
        names = _names(layer)
        recurs = "update_recurrent_state" in names
        if CONVOLUTION not in names or (recurs and SCANS.isdisjoint(names)):
            return type(layer).__name__
    return ""


def attach(layers: Sequence[nn.Module], slots: int, device: torch.device, cache: ArenaCache) -> States:
    """Give the layers a memory that the engine controls, and return it."""
    kinds = Counter(type(layer) for layer in layers)
    states = States(slots, list(kinds.values()), device, lambda: cache.interrupted)
    numbers: Counter[type] = Counter()
    for layer in layers:
        kind = type(layer)
        at: _At = (states, list(kinds).index(kind), numbers[kind])
        numbers[kind] += 1
        names: dict[str, Callable[..., Any]] = {
            CONVOLUTION: functools.partial(_convolve, at),
            DELTA_RULE: functools.partial(_delta_rule, at),
            MAMBA_2: functools.partial(_mamba_2, at),
            MAMBA_1: functools.partial(_mamba_1, at),
            KIMI_DELTA_RULE: functools.partial(_delta_rule, at),
            PADDING: _no_padding,
        }
        raw = _raw(layer)
        bound = FunctionType(raw.__code__, raw.__globals__ | names, raw.__name__, raw.__defaults__, raw.__closure__)
        bound.__kwdefaults__ = raw.__kwdefaults__
        layer.forward = MethodType(bound, layer)
    return states


def _raw(module: nn.Module) -> Any:
    """The `forward` of the module's class without decorators."""
    return inspect.unwrap(type(module).forward)


def _names(module: nn.Module) -> Sequence[str]:
    """The names in the module's `forward`; none if that is no plain function."""
    function = _raw(module)
    return function.__code__.co_names if isinstance(function, FunctionType) else ()


def _no_padding(hidden_states: Tensor, attention_mask: Any) -> Tensor:
    """Passes have no padding, but some models hand their layers the attention mask."""
    return hidden_states


def _convolve(
    at: _At,
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **options: Any,
) -> Tensor:
    """The causal convolution: [1, channels, rows] -> [1, channels, rows]."""
    states, bank, layer = at
    out = states.convolve(bank, layer, hidden_states, weight, bias).to(hidden_states.dtype)
    return out if activation is None else _activation(activation)(out)


_activation: Callable[[str], Callable[[Tensor], Tensor]] = functools.cache(ACT2FN.__getitem__)
"""The library's activation function of this name. It makes a new one each time, so they are kept."""


def _delta_rule(
    at: _At,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule. query and key [1, rows, groups, key], value [1, rows, groups * heads, value], g and beta
    [1, rows, groups * heads]. In Kimi delta attention g has a further dimension [key]. Returns a tensor like value."""
    states, bank, layer = at
    groups = key.shape[2]
    q, k = query.float(), key.float()
    if use_qk_l2norm_in_kernel:
        q, k = (each * torch.rsqrt((each * each).sum(-1, keepdim=True) + 1e-6) for each in (q, k))
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    decay = _grouped(g.float(), groups)
    tokens = Tokens(
        q * q.shape[-1] ** -0.5, k, _grouped(value.float(), groups), decay.unsqueeze(5) if g.dim() > 3 else decay,
        _grouped(beta.float(), groups),
    )  # fmt: skip
    out = states.recur(bank, layer, tokens)
    return out.flatten(1, 2).transpose(1, 2).contiguous().to(query.dtype), _NO_STATE


def _mamba_2(
    at: _At,
    *inputs: Tensor,
    D: Tensor | None = None,  # noqa: N803
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **options: Any,
) -> Any:
    """Mamba-2's scan. inputs: x [1, rows, groups * heads, value], dt [1, rows, groups * heads], A [groups * heads], B
    and C [1, rows, groups, key]. Returns a tensor like x, in float32."""
    states, bank, layer = at
    hidden, dt, a, b, c = inputs
    groups = b.shape[2]
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    if dt_softplus:
        dt = nn.functional.softplus(dt)
    dt = dt.clamp(*dt_limit).float()
    x = hidden.float()
    tokens = Tokens(
        c.float().transpose(1, 2), b.float().transpose(1, 2), _grouped(x * dt[..., None], groups),
        _grouped(a.float() * dt, groups), None,
    )  # fmt: skip
    out = states.recur(bank, layer, tokens).flatten(1, 2).transpose(1, 2)
    out = _with_skip(out, x, D).contiguous()
    return (out, _NO_STATE) if return_final_states else out


def _mamba_1(
    at: _At,
    *inputs: Tensor,
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **options: Any,
) -> Any:
    """Mamba-1's scan. inputs: x and dt [1, value, rows], A [value, key], B and C [1, key, rows]. z is shaped like x.
    Returns a tensor like x. All channels are values of one head."""
    states, bank, layer = at
    hidden, dt, a, b, c = inputs
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = nn.functional.softplus(dt)
    x, steps = hidden.float(), dt.float()
    q, k = c.float().transpose(1, 2)[:, None], b.float().transpose(1, 2)[:, None]
    v, g = (each.transpose(1, 2)[:, None, None] for each in (steps * x, steps))
    tokens = Tokens(q, k, v, g.unsqueeze(4), None, a.float().T[None, None])
    out = states.recur(bank, layer, tokens)[:, 0, 0].transpose(1, 2)
    out = _with_skip(out, x, D).to(hidden.dtype)
    if z is not None:
        out = out * nn.functional.silu(z)
    return (out, _NO_STATE) if return_last_state else out


def _with_skip(out: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    """Add the input past the recurrence, weighted by Mamba's D."""
    return out if weight is None else out + weight.float()[:, None] * x


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[1, rows, groups * heads, ...] -> [1, groups, heads, rows, ...]"""
    x = x.transpose(1, 2)
    return x.reshape(1, groups, -1, *x.shape[2:])
