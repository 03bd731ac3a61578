"""Write a Llama model directory as GGUF with numpy alone.

A spare machine that runs llama.cpp should not need torch or transformers, so this file reads safetensors itself. GGUF
has other names for the tensors. And llama.cpp rotates neighbouring pairs of a head's values, where transformers rotates
the two halves. So the rows of the query and key matrices change places.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

from duo import models

Type = Literal["bf16", "q8_0"]
Array = npt.NDArray[np.float32]

# Part of the cache key: raise it when the file that is written for the same model changes.
FORMAT = 1

_QUANTIZATION = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
_FILE_TYPE = {"bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_LAYER = {
    "input_layernorm.weight": "attn_norm",
    "post_attention_layernorm.weight": "ffn_norm",
    "self_attn.q_proj.weight": "attn_q",
    "self_attn.k_proj.weight": "attn_k",
    "self_attn.v_proj.weight": "attn_v",
    "self_attn.o_proj.weight": "attn_output",
    "mlp.gate_proj.weight": "ffn_gate",
    "mlp.up_proj.weight": "ffn_up",
    "mlp.down_proj.weight": "ffn_down",
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd",
    "model.norm.weight": "output_norm",
    "lm_head.weight": "output",
}


class ExportError(ValueError):
    """The model cannot be written as GGUF; the message says why and what to do."""


def read_safetensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file as float32."""
    blob = path.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    header: dict[str, dict[str, Any]] = json.loads(blob[8:start])
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        raw = blob[start + first : start + last]
        values: Array
        if entry["dtype"] == "BF16":  # the upper half of a float32
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] in ("F16", "F32"):
            values = np.frombuffer(raw, "<f2" if entry["dtype"] == "F16" else "<f4").astype(np.float32)
        else:
            raise ExportError(f"{path}: {name} has type {entry['dtype']}; only BF16, F16 and F32 can be exported")
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def halves_to_pairs(values: Array, heads: int) -> Array:
    """Reorder each head's rows of a matrix or bias from (first half, second half) to neighbouring pairs."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _gguf_name(name: str) -> str:
    if name in _OUTSIDE:
        return f"{_OUTSIDE[name]}.weight"
    parts = name.split(".", 3)
    if parts[:2] == ["model", "layers"] and len(parts) == 4 and parts[3] in _LAYER:
        return f"blk.{parts[2]}.{_LAYER[parts[3]]}.weight"
    raise ExportError(f"tensor {name} has no place in llama.cpp's llama architecture; this model cannot be exported")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path} is not valid JSON ({error}); restore it from the model's origin") from None
    if not isinstance(loaded, dict):
        raise ExportError(f"{path} does not hold a JSON object; restore it from the model's origin")
    return loaded


def _check(directory: Path) -> dict[str, Any]:
    """The model's configuration, if it is one that can be exported."""
    if not directory.is_dir():
        raise ExportError(f"{directory} is not a directory; give a model directory, or 'target' or 'draft'")
    for name in _FILES:
        if not (directory / name).is_file():
            raise ExportError(f"{directory} has no {name}; give a complete Hugging Face model directory")
    config = _read_json(directory / "config.json")
    if config.get("model_type") != "llama":
        raise ExportError(
            f"{directory} has architecture {config.get('model_type')!r}; only 'llama' is supported: "
            "convert others with llama.cpp's convert_hf_to_gguf.py"
        )
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ExportError(f"{directory} has biases, which llama.cpp's llama architecture lacks; it cannot be exported")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ExportError(f"{directory} scales its rotary positions ({rope['rope_type']}); only 'default' is supported")
    return config


def _add_parameters(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: gguf.GGUFWriter, directory: Path, size: int) -> None:
    """Write the tokenizer and chat template of a model directory. `size`: rows of the embedding.

    Raises ExportError if it is not a byte-level BPE with GPT-2's split.
    """
    tokenizer = _read_json(directory / "tokenizer.json")
    settings = _read_json(directory / "tokenizer_config.json")
    split = tokenizer.get("pre_tokenizer") or {}
    if tokenizer["model"]["type"] != "BPE" or split.get("type") != "ByteLevel" or not split.get("use_regex", True):
        raise ExportError(f"{directory} has no byte-level BPE with GPT-2's split; only that tokenizer is supported")
    if split.get("add_prefix_space"):
        raise ExportError(f"{directory} puts a space before the text, which this export does not support")
    vocabulary: dict[str, int] = dict(tokenizer["model"]["vocab"])
    kinds = dict.fromkeys(vocabulary.values(), gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        vocabulary[added["content"]] = added["id"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    text = {number: token for token, number in vocabulary.items()}
    numbers = range(size)
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([text.get(i, f"<|unused{i}|>") for i in numbers])
    writer.add_token_types([kinds.get(i, gguf.TokenType.UNUSED) for i in numbers])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    end = vocabulary[settings["eos_token"]]
    padding = vocabulary.get(settings.get("pad_token") or "", end)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(padding)
    # llama.cpp gives a file without a BOS token an arbitrary one; name a harmless one, and never add it.
    writer.add_bos_token_id(vocabulary.get(settings.get("bos_token") or "", padding))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    if settings.get("chat_template"):
        writer.add_chat_template(settings["chat_template"])


def export(model_dir: Path, out: Path, type: Type = "bf16") -> None:
    """Write the model in `model_dir` to the GGUF file `out`: matrices in the given type, norms in float32."""
    if type not in _QUANTIZATION:
        raise ExportError(f"type {type!r} is unknown; use one of {', '.join(_QUANTIZATION)}")
    config = _check(model_dir)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    tensors = read_safetensors(model_dir / "model.safetensors")
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)  # llama.cpp takes the embedding where there is no output matrix
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(f"duo {model_dir.name}")
    writer.add_file_type(_FILE_TYPE[type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_parameters(writer, config)
    add_tokenizer(writer, model_dir, config["vocab_size"])
    for name, tensor in sorted(tensors.items()):
        if tensor.ndim == 1:
            writer.add_tensor(_gguf_name(name), tensor)
            continue
        if ".q_proj." in name or ".k_proj." in name:
            tensor = halves_to_pairs(tensor, heads if ".q_proj." in name else kv_heads)
        kind = _QUANTIZATION[type]
        writer.add_tensor(_gguf_name(name), gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    write(writer, out)


def write(writer: gguf.GGUFWriter, out: Path) -> None:
    """Write the file beside its place and then move it there, so that a reader never sees half a file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=out.parent, prefix=out.name, suffix=".part")
    os.close(handle)
    try:
        writer.write_header_to_file(Path(part))
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        Path(part).chmod(0o644)
        Path(part).replace(out)
    finally:
        Path(part).unlink(missing_ok=True)


def directory(name: str) -> Path:
    """The directory of a shipped model, or the path that was given."""
    return {"target": models.TARGET, "draft": models.DRAFT}.get(name, Path(name))


def cached_gguf(name: Literal["target", "draft"], type: Type = "bf16") -> Path:
    """A shipped model as GGUF, exported once into the user's cache and found there afterwards."""
    source = directory(name)
    _check(source)
    digest = hashlib.sha256(f"{FORMAT} {type}".encode())
    for file in _FILES:
        digest.update((source / file).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duo"
    out = cache / f"{name}-{type}-{digest.hexdigest()[:16]}.gguf"
    if not out.is_file():
        export(source, out, type)
    return out


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m duo.models.export", description="Write a model as GGUF for llama.cpp."
    )
    parser.add_argument("model", help="a Hugging Face model directory, or 'target' or 'draft' for a shipped model")
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", choices=tuple(_QUANTIZATION), default="bf16", help="type of the matrices")
    args = parser.parse_args(arguments)
    try:
        export(directory(args.model), args.out, args.type)
    except (ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
