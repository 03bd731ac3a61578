"""The draft model before it learns: some layers of the target, or a narrow model of new layers."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

from duo.engines.load import runtime_of
from duo.engines.transformers import loading
from duo.engines.transformers.directory import locate
from duo.errors import FileError, ModelError, first_line

_LAYER = re.compile(r"(.*\blayers\.)(\d+)(\..*)")
SHARE = 8
"""A draft has one of so many layers, if nobody says otherwise."""
HEAD = 64
"""Size of a head of a narrow model."""


def weights_of(model: str) -> Any:
    """The target's weights, as a model of transformers in bfloat16. model: a folder, a hub id or a GGUF file.

    Raises ModelError.
    """
    if runtime_of(model) == "transformers":
        source, name = locate(model)
        with loading.quiet():
            config = loading.read_config(source, name)
            return loading.read_weights(source, name, config, "bfloat16", torch.device("cpu"))
    path = Path(model)
    try:
        with loading.quiet():
            return AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )  # fmt: skip
    except Exception as error:  # the library reads some architectures, and says so in many ways
        raise ModelError(
            f"transformers cannot read the weights of {path.name} ({first_line(error)}): name the same model in the "
            "Hugging Face layout with --weights"
        ) from error


def kept(layers: int, count: int) -> list[int]:
    """Which of the target's layers are kept: `count`, spread evenly from the first to the last."""
    if not 1 <= count <= layers:
        raise ModelError(f"the target has {layers} layers: --layers must be from 1 to {layers}, not {count}")
    return [round(i * (layers - 1) / max(1, count - 1)) for i in range(count)]


def cut(target: Any, count: int = 0) -> Any:
    """A model with `count` of the target's layers, and all else of it, in float32. 0: one of `SHARE` layers.

    Raises ModelError if the model's layers cannot be told apart.
    """
    config = copy.deepcopy(target.config)
    text = config.get_text_config()
    layers = int(text.num_hidden_layers)
    chosen = kept(layers, count or max(1, layers // SHARE))
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == layers:  # a value for each layer, such as its kind
            setattr(text, name, [value[layer] for layer in chosen])
    text.num_hidden_layers = len(chosen)
    places = {layer: place for place, layer in enumerate(chosen)}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in target.state_dict().items():
        match = _LAYER.fullmatch(name)
        if match is None:
            tensors[name] = tensor
        elif int(match[2]) in places:
            tensors[f"{match[1]}{places[int(match[2])]}{match[3]}"] = tensor
    try:
        maker: Any = AutoModelForCausalLM
        model = maker.from_config(config, dtype=torch.float32)
        model.load_state_dict(tensors)
    except Exception as error:  # each architecture has rules of its own
        raise ModelError(
            f"cannot cut layers out of a {config.model_type}: take --width ({first_line(error)})"
        ) from error
    model.generation_config = copy.deepcopy(target.generation_config)
    return model


def narrow(target: Any, width: int, layers: int = 0) -> Any:
    """A Llama of `layers` new layers (0: 2) and this width, with the target's vocabulary, in float32.

    Its embedding is the best approximation of the target's of that rank. Raises ModelError.
    """
    if width % HEAD:
        raise ModelError(f"--width {width} must be a multiple of {HEAD}")
    rows = target.get_input_embeddings().weight.detach().float()
    if width > min(rows.shape):
        raise ModelError(f"--width {width} is more than the target's own, {rows.shape[1]}")
    text = target.config.get_text_config()
    config = LlamaConfig(
        vocab_size=rows.shape[0], hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers or 2,
        num_attention_heads=width // HEAD, num_key_value_heads=max(1, width // HEAD // 2), head_dim=HEAD,
        max_position_embeddings=text.max_position_embeddings, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model = model.float()
    left, values, _ = torch.svd_lowrank(rows, width)
    nearest = left * values
    model.get_input_embeddings().weight.data.copy_(nearest * (0.02 / nearest.std()))
    model.generation_config = copy.deepcopy(target.generation_config)
    return model


def write(model: Any, source: str, out: Path) -> None:
    """Write the model in bfloat16 as transformers reads it, with the tokenizer of `source`. Raises FileError."""
    path = Path(source)
    try:
        with loading.quiet():
            model.to("cpu", torch.bfloat16).save_pretrained(out)
            where = {"gguf_file": path.name} if path.is_file() else {}
            AutoTokenizer.from_pretrained(str(path.parent) if where else source, **where).save_pretrained(out)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write the draft to {out}: {first_line(error)}") from error
