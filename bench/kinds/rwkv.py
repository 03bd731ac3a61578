"""RWKV 6 and 7. transformers does not know them, so their GGUF files are made without a checkpoint."""

from __future__ import annotations

from bench.kinds.kind import Kind, Shape, Value
from bench.kinds.steps import Config

_WIDTH, _INNER, _RANK, _LAYERS = 128, 192, 16, 4
_HEAD = 64
"""Width of a head, as in all published models: llama.cpp writes beyond the end of smaller heads."""
_SQUARE: Shape = (_WIDTH, _WIDTH)
_VECTOR: Shape = (_WIDTH,)
_MIX: Shape = (1, 1, _WIDTH)

_BOTH: dict[str, Shape] = {
    **{
        f"{norm}.{part}": _VECTOR for norm in ("attn_norm", "attn_norm_2", "time_mix_ln") for part in ("weight", "bias")
    },
    **{f"time_mix_{name}.weight": _SQUARE for name in ("key", "value", "receptance", "output")},
    "channel_mix_lerp_k.weight": _MIX,
    "channel_mix_key.weight": (_INNER, _WIDTH),
    "channel_mix_value.weight": (_WIDTH, _INNER),
}
_LAYER6: dict[str, Shape] = {
    **_BOTH,
    "time_mix_w1.weight": (5 * _RANK, _WIDTH),
    "time_mix_w2.weight": (5, _WIDTH, _RANK),
    "time_mix_lerp_x.weight": _MIX,
    "time_mix_lerp_fused.weight": (5, 1, 1, _WIDTH),
    "time_mix_first.weight": (_WIDTH // _HEAD, _HEAD),
    "time_mix_decay.weight": _VECTOR,
    "time_mix_decay_w1.weight": (_RANK, _WIDTH),
    "time_mix_decay_w2.weight": (_WIDTH, _RANK),
    "time_mix_gate.weight": _SQUARE,
    "channel_mix_lerp_r.weight": _MIX,
    "channel_mix_receptance.weight": _SQUARE,
}
_LAYER7: dict[str, Shape] = {
    **_BOTH,
    **{f"time_mix_{name}0.weight": _VECTOR for name in "wav"},
    **{f"time_mix_{name}1.weight": (_RANK, _WIDTH) for name in "wavg"},
    **{f"time_mix_{name}2.weight": (_WIDTH, _RANK) for name in "wavg"},
    "time_mix_lerp_fused.weight": (6, 1, 1, _WIDTH),
    **{f"time_mix_{name}.weight": _VECTOR for name in ("k_k", "k_a", "r_k")},
}


def _keys(config: Config) -> dict[str, Value]:
    return {
        "context_length": 512,
        "embedding_length": _WIDTH,
        "block_count": _LAYERS,
        "feed_forward_length": _INNER,
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": 1e-5,
        "wkv.head_size": _HEAD,
    }


def _keys6(config: Config) -> dict[str, Value]:
    return {**_keys(config), "time_mix_extra_dim": _RANK, "time_decay_extra_dim": _RANK}


def _keys7(config: Config) -> dict[str, Value]:
    ranks = ("decay", "iclr", "value_residual_mix", "gate")
    return {**_keys(config), **{f"attention.{name}_lora_rank": _RANK for name in ranks}}


def _shapes(layer: dict[str, Shape], vocabulary: int) -> dict[str, Shape]:
    ends: dict[str, Shape] = {
        f"{norm}.{part}": _VECTOR for norm in ("token_embd_norm", "output_norm") for part in ("weight", "bias")
    }
    layers = {f"blk.{i}.{name}": shape for i in range(_LAYERS) for name, shape in layer.items()}
    return {**ends, **layers, "token_embd.weight": (vocabulary, _WIDTH), "output.weight": (vocabulary, _WIDTH)}


KINDS = (
    Kind("rwkv6", "RWKV", arch="rwkv6", keys=_keys6, shapes=lambda vocabulary: _shapes(_LAYER6, vocabulary)),
    Kind("rwkv7", "RWKV", arch="rwkv7", keys=_keys7, shapes=lambda vocabulary: _shapes(_LAYER7, vocabulary)),
)
