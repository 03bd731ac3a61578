"""Reads a model and its tokenizer with the transformers library. Whatever is wrong becomes a ModelError of one line."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import huggingface_hub
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from duo.engines.transformers import quantization
from duo.errors import ModelError, first_line

DEFAULT_CONTEXT = 4096
"""Most tokens per slot, unless more is asked for."""

log = logging.getLogger("duo")

_SHARD = re.compile(r"[\w.-]+-\d{5}-of-\d{5}\.safetensors")
"""How a part of the weights is called."""

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"

PLAIN_LAYERS = frozenset({FULL, SLIDING, CHUNKED})
"""Layers whose whole memory is keys and values behind a mask."""

STATEFUL_LAYERS = ("linear_attention", "conv", "hybrid", "mamba", "mamba2", "attention", "mlp", "moe")
"""Layers of hybrid models. Once they are loaded, `mixers` finds out whether the engine can run them."""

MaskForm = Literal["single", "by layer type"]
"""How a model takes its attention masks: one for all layers, or one for each kind of layer."""


def read_config(source: str, name: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the file or the network may do anything
        log.debug("transformers: %s", first_line(error))
        if strange := re.search(r"model type `(.+?)`.*does not recognize", str(error)):
            raise ModelError(
                f"{name} is a model of type {strange[1]}, which transformers {transformers.__version__} does not know: "
                "update transformers, or use a GGUF of this model"
            ) from error
        if Path(source).is_dir():
            raise ModelError(f"{name}'s config.json cannot be read: put the model's own there") from error
        raise ModelError(
            f"{name} is neither a folder here nor a model that the Hugging Face hub gives out: check the name"
        ) from error
    if config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder model ({config.model_type}): use a decoder-only one")
    return config


def read_generation_config(source: str) -> dict[str, Any]:
    """What generation_config.json holds, without the library's own defaults. Empty if there is none."""
    name = "generation_config.json"
    path = Path(source, name) if Path(source).is_dir() else huggingface_hub.try_to_load_from_cache(source, name)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8")) if isinstance(path, str | Path) else {}
    except (OSError, ValueError):  # the model runs without it
        return {}
    return found if isinstance(found, dict) else {}


class Sight(NamedTuple):
    """What layers with a limited sight see.

    window: the latest tokens that a row sees; 0 if all layers see all tokens. chunked: a row sees its own chunk of
    `window` tokens instead. forms: the forms of mask to try.
    """

    window: int
    chunked: bool
    forms: tuple[MaskForm, ...]


def sight_of(config: Any, text_config: Any, name: str) -> Sight:
    """The sight of a model's layers. Raises ModelError if a mask cannot express it."""
    layer_types = getattr(text_config, "layer_types", None)
    window = int(getattr(text_config, "sliding_window", None) or 0)
    chunk = int(getattr(text_config, "attention_chunk_size", None) or 0)
    strange = set(layer_types or ()) - PLAIN_LAYERS - set(STATEFUL_LAYERS)
    if (chunk and layer_types is None) or {CHUNKED, SLIDING} <= set(layer_types or ()):
        strange = {CHUNKED}
    if "local" in (getattr(text_config, "attention_layers", None) or ()):
        strange = {"local attention"}
    if strange:
        raise ModelError(
            f"{name} ({config.model_type}) has layers of kind {', '.join(sorted(strange))}, not only attention over "
            "all or the latest tokens: the transformers engine cannot branch them, use another model"
        )
    if getattr(text_config, "alibi", False):
        raise ModelError(
            f"{name} ({config.model_type}) uses ALiBi, which knows no explicit positions: use another model"
        )
    if layer_types is None:
        return Sight(window, False, ("single",))
    kind, size, field = (
        (CHUNKED, chunk, "attention_chunk_size") if CHUNKED in layer_types else (SLIDING, window, "sliding_window")
    )
    if kind not in layer_types:
        return Sight(0, False, ("single",))
    if not size:
        raise ModelError(f"{name}'s config.json names layers of kind {kind} but no {field}: mend it")
    if set(layer_types) == {kind}:
        return Sight(size, kind == CHUNKED, ("by layer type", "single"))
    return Sight(size, kind == CHUNKED, ("by layer type",))


def serve_or_refuse(recurrence: str, config: Any, name: str) -> None:
    """Raises ModelError if the model has a recurrence that the engine cannot run. recurrence: its name, or empty."""
    if recurrence:
        raise ModelError(
            f"{name} ({config.model_type}) has recurrent layers ({recurrence}) that the transformers engine cannot "
            "run: use a GGUF of this model, with llama.cpp"
        )


def context_of(text_config: Any, asked: int, name: str, limit: int = DEFAULT_CONTEXT) -> int:
    """Tokens per slot: what is asked for, else the model's own, but at most `limit`.

    Raises ModelError if more is asked for than the model was made for.
    """
    trained = getattr(text_config, "max_position_embeddings", None)
    # Rotary embeddings of this type switch to other factors for the whole batch if any position is beyond the original
    # length. Then a row's logits would depend on its neighbours.
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        trained = rope.get("original_max_position_embeddings") or trained
    if getattr(text_config, "attn_temperature_tuning", None) and (scale := getattr(text_config, "floor_scale", 0)):
        # From there on queries are scaled by positions that the library counts itself.
        trained = min(trained or scale, int(scale) - 1)
    if not trained or trained < 0:
        return asked or DEFAULT_CONTEXT
    if asked > trained:
        raise ModelError(
            f"a context of {asked} tokens is more than the {trained} that {name} was made for: ask for less"
        )
    return asked or min(int(trained), limit)


def read_tokenizer(source: str, name: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the file or the network may do anything
        log.debug("transformers: %s", first_line(error))
        raise ModelError(f"{name} has no usable tokenizer: put its tokenizer.json beside its config.json") from error
    if not tokenizer.get_vocab():
        raise ModelError(f"{name}'s tokenizer is empty: put its tokenizer.json beside its config.json")
    return tokenizer


def read_weights(source: str, name: str, config: Any, dtype: str, device: torch.device) -> Any:
    """The model, ready to run on the device. Raises ModelError."""
    if dtype == "auto":
        wanted: Any = torch.float32 if device.type == "cpu" else "auto"
    else:
        wanted = getattr(torch, dtype, None)
        if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
            raise ModelError(f"there is no dtype {dtype!r}: use auto, float32, bfloat16 or float16")
    quantised, dense = quantization.prepare(config, device, name)
    try:
        loader: Any = AutoModelForCausalLM
        model, report = loader.from_pretrained(
            source,
            config=config,
            dtype=wanted,
            device_map={"": device} if quantised else None,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            # So that the report below names them, and no table appears on the terminal.
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # the file or the network may do anything
        log.debug("transformers: %s", first_line(error))
        if isinstance(error, ValueError) and "Unrecognized configuration class" in str(error):
            raise ModelError(
                f"{name} is not a language model that predicts the next token: use another model"
            ) from error
        kind = "quantised weights" if quantised else "weights (safetensors)"
        what = f"{part[0]} is missing or damaged" if (part := _SHARD.search(str(error))) else "they are damaged"
        raise ModelError(f"cannot load {name}'s {kind}: {what}; get the whole model again") from error
    if mismatched := sorted(report["mismatched_keys"]):
        tensor = mismatched[0][0] if isinstance(mismatched[0], tuple) else mismatched[0]
        raise ModelError(f"{name}'s weights do not fit its config.json, first {tensor}: get both from one place")
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{name}'s weights lack {len(missing)} of the model's tensors, first {missing[0]}: get the whole model"
        )
    try:
        if not quantised:
            model = model.to(device)
        elif dense and isinstance(wanted, torch.dtype):
            # Dequantised weights have the type of their scales.
            model = model.to(wanted)
        return model.eval()
    except (RuntimeError, ValueError, AssertionError) as error:
        log.debug("torch: %s", first_line(error))
        what = "its memory is too small" if isinstance(error, torch.OutOfMemoryError) else "it cannot be used"
        raise ModelError(f"{name} cannot run on {device}: {what}; --list-devices shows what is here") from error


def device_of(wanted: str) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.device(wanted)
    except RuntimeError as error:
        raise ModelError(f"there is no device {wanted!r}: use auto, cpu, cuda, cuda:N or mps") from error


def eos_of(model: Any, tokenizer: Any) -> frozenset[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    tokens = [] if given is None else given if isinstance(given, list | tuple) else [given]
    if tokenizer.eos_token_id is not None:
        tokens = [*tokens, tokenizer.eos_token_id]
    return frozenset(int(token) for token in tokens)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, log lines and warnings off the terminal."""
    log: Any = transformers.utils.logging
    bars: Any = huggingface_hub.utils
    hub = logging.getLogger("huggingface_hub")
    verbosity, hub_level = log.get_verbosity(), hub.level
    loading_bars, download_bars = log.is_progress_bar_enabled(), not bars.are_progress_bars_disabled()
    log.set_verbosity(log.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    log.disable_progress_bar()
    bars.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if loading_bars:
            log.enable_progress_bar()
        if download_bars:
            bars.enable_progress_bars()
