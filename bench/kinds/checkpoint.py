"""Writes a tiny model of a kind with random weights, as transformers does."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from bench.kinds import vocabulary
from bench.kinds.kind import SIZES, SPREAD, Kind
from duo.engines.transformers.loading import quiet

# Random attention looks at all tokens alike and adds little. With these factors text depends on all earlier tokens, and
# seldom repeats itself. Larger factors would multiply the rounding errors of keys and values in 16 bits.
_LOOKS = 1.4, re.compile(r"(self_attn|attn|attention|mixer)\.(q_proj|k_proj|qkv_proj|c_attn|query_key_value)\.weight$")
_SAYS = 2.0, re.compile(r"(self_attn|attn|attention|mixer)\.(o_proj|dense|c_proj)\.weight$")
# An embedding that is also the head predicts the token that was read. Larger layers prevent that.
_LOUD = 4.0, re.compile(r"(o_proj|down_proj|post_(attention|feedforward)_layernorm)\.weight$")


def write(kind: Kind, folder: Path, seed: int) -> dict[str, Any]:
    """Writes config.json and the weights. Returns the configuration with every default."""
    config: Any = AutoConfig.for_model(
        kind.model_type,
        **{
            **SIZES,
            **kind.sizes,
            "vocab_size": vocabulary.SIZE,
            "bos_token_id": None,
            "eos_token_id": vocabulary.EOS_ID,
            "pad_token_id": vocabulary.PAD_ID,
        },
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loader: Any = AutoModelForCausalLM
        model: Any = loader.from_config(config, dtype=torch.float32)
        _randomise(model)
        model.save_pretrained(folder)
    # Some configurations have the usual names as properties. They are added.
    full: dict[str, Any] = model.config.to_dict()
    return full | {name: getattr(model.config, name, None) for name in SIZES if name not in full}


@torch.no_grad()
def _randomise(model: Any) -> None:
    """Fills the weights so that every layer matters.

    A matrix keeps the size of the vector that it multiplies. A vector varies around its layer's initial value: 1 for
    most norms, 0 for norms that add 1, and a range of decays for states.
    """
    transposed = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    shifted = {id(module.weight) for module in model.modules() if type(module).__name__.endswith("Norm1P")}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    factors = [_LOOKS, _SAYS, _LOUD] if embedding is head else [_LOOKS, _SAYS]
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape)
        factor = math.prod(factor for factor, names in factors if names.search(name))
        if weight is head:
            weight.copy_(noise * SPREAD / weight.shape[-1] ** 0.5)
        elif weight is embedding:
            weight.copy_(noise)
        elif weight.ndim == 1 or name.endswith("A_log"):
            # Norms that add 1 are initialised with 1, but need 0.
            begin = 0 if id(weight) in shifted else _initial(name, weight)
            weight.copy_(begin + 0.2 * noise + factor - 1)
        else:
            inputs = weight.shape[0] if id(weight) in transposed else weight[0].numel()
            inputs = weight.shape[-1] if weight.ndim == 3 and "conv" not in name else inputs
            weight.copy_(factor * noise / inputs**0.5)
    # A bias for experts is large, so that rounding seldom decides between two.
    for name, bias in model.named_buffers():
        if name.endswith(("e_score_correction_bias", "expert_bias")):
            bias.copy_(0.8 * torch.randn(bias.shape))


def _initial(name: str, weight: torch.Tensor) -> torch.Tensor:
    """The initial value of a vector. Time steps are short, so that states remember many tokens."""
    return torch.full_like(weight, -3) if name.endswith(("dt_bias", "dt_proj.bias")) else weight
