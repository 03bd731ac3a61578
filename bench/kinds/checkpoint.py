"""A tiny model of a kind with random weights, as transformers writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from bench.kinds import vocabulary
from bench.kinds.kind import SIZES, Kind
from duo.engines.transformers.loading import quiet

SPREAD = 3.0
"""Standard deviation that logits get, roughly. Random text is then neither noise nor one token again and again."""

_TIED = 4.0
_OUTPUT = re.compile(r"(o_proj|down_proj)\.weight$")
_SHARP = 2.0
"""Of attention, which else looks everywhere alike. Text then depends on all that was said, and runs into no circle."""
_ATTENTION = re.compile(
    r"(self_attn|attn|attention|mixer)\.(q_proj|k_proj|qkv_proj|o_proj|dense|c_attn|query_key_value)\.weight$"
)
_POST_NORM = re.compile(r"post_(attention|feedforward)_layernorm\.weight$")


def write(kind: Kind, folder: Path, seed: int) -> dict[str, Any]:
    """Write config.json, the weights and the tokenizer; return the configuration with every default."""
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
    vocabulary.write(folder)
    # Under the usual names too, which are properties in some configurations.
    full: dict[str, Any] = model.config.to_dict()
    return full | {name: getattr(model.config, name, None) for name in SIZES if name not in full}


@torch.no_grad()
def _randomise(model: Any) -> None:
    """Fill the weights so that every layer matters.

    Matrices keep the size of what they multiply. Vectors vary about what their kind of layer begins with: 1 for most
    norms, 0 for those that add 1, a range of decays for states.
    """
    columns = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    # An embedding that is the head too would predict the token that was read, were it not for louder layers.
    gain = _TIED if embedding is head else 1.0
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape)
        if weight is head:
            weight.copy_(noise * SPREAD / weight.shape[-1] ** 0.5)
        elif weight is embedding:
            weight.copy_(noise)
        elif weight.ndim == 1 or name.endswith("A_log"):
            weight.copy_(_own(name, weight) + 0.2 * noise)
            if _POST_NORM.search(name):
                weight.add_(gain - 1)
        else:
            inputs = weight.shape[0] if id(weight) in columns else weight[0].numel()
            inputs = weight.shape[-1] if weight.ndim == 3 and "conv" not in name else inputs
            weight.copy_(noise / inputs**0.5)
            if _OUTPUT.search(name):
                weight.mul_(gain)
            if _ATTENTION.search(name):
                weight.mul_(_SHARP)


def _own(name: str, weight: torch.Tensor) -> torch.Tensor:
    """What the library begins a vector with. But time steps are short, so that states remember many tokens."""
    return torch.full_like(weight, -3) if name.endswith(("dt_bias", "dt_proj.bias")) else weight
