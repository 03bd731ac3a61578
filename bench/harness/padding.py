"""Big models that predict like the shipped small ones: the shipped weights, padded with zeros.

A measurement needs two models of real sizes that agree as often as trained models do. So the shipped pair is made wider
with zeros. A model that would become too wide for its depth also becomes deeper. The zeros change the cost alone:

- Added hidden values, heads and feed-forward values are always 0, so they add 0 to every sum. The width of a head
  stays, because rotary positions depend on it.
- A norm takes the mean square over the new width, which makes it smaller by the ratio of the widths. So the norm's
  weights are multiplied by the square root of that ratio, and its epsilon by the ratio.
- A layer of zeros adds nothing to the residual stream.

No runtime skips zeros: a padded model costs what a trained model of its shape costs. Its outputs are those of the
shipped model up to rounding. This holds for quantised weights too, because blocks of Q8_0 do not straddle the seam.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from bench.harness.models import Runtime, shipped
from duo.errors import ModelError
from duo.models.export import cached_gguf, directory, read_safetensors

FORMAT = 2
"""Part of the cache key. Raise it when the written file of the same model changes."""

MAX_WIDTH_PER_LAYER = 128
"""The hidden width divided by the number of layers, at most. Llama 3.2 1B has 16 layers of 2,048."""

Type = Literal["bf16", "q8_0"]
Axis = Literal["vocabulary", "hidden", "inner", "heads", "kv"]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
# transformers' name, GGUF's name, and what the rows and columns are. A norm has columns only.
_LAYER: tuple[tuple[str, str, tuple[Axis, ...]], ...] = (
    ("input_layernorm", "attn_norm", ("hidden",)),
    ("self_attn.q_proj", "attn_q", ("heads", "hidden")),
    ("self_attn.k_proj", "attn_k", ("kv", "hidden")),
    ("self_attn.v_proj", "attn_v", ("kv", "hidden")),
    ("self_attn.o_proj", "attn_output", ("hidden", "heads")),
    ("post_attention_layernorm", "ffn_norm", ("hidden",)),
    ("mlp.gate_proj", "ffn_gate", ("inner", "hidden")),
    ("mlp.up_proj", "ffn_up", ("inner", "hidden")),
    ("mlp.down_proj", "ffn_down", ("hidden", "inner")),
)
_OUTSIDE: tuple[tuple[str, str, tuple[Axis, ...]], ...] = (
    ("model.embed_tokens", "token_embd", ("vocabulary", "hidden")),
    ("model.norm", "output_norm", ("hidden",)),
)


@dataclass(frozen=True)
class Shape:
    """The dimensions of a Llama model with tied embeddings."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int

    def length(self, axis: Axis) -> int:
        return {
            "vocabulary": self.vocabulary,
            "hidden": self.hidden,
            "inner": self.inner,
            "heads": self.heads * self.head,
            "kv": self.kv_heads * self.head,
        }[axis]

    @property
    def parameters(self) -> int:
        return sum(math.prod(map(self.length, axes)) for _, _, axes in self.tensors())

    def tensors(self) -> Iterator[tuple[str, str, tuple[Axis, ...]]]:
        """transformers' name, GGUF's name and axes of every tensor."""
        yield from ((f"{ours}.weight", f"{theirs}.weight", axes) for ours, theirs, axes in _OUTSIDE)
        for i in range(self.layers):
            for ours, theirs, axes in _LAYER:
                yield f"model.layers.{i}.{ours}.weight", f"blk.{i}.{theirs}.weight", axes


def shape(which: Literal["target", "draft"], size: str) -> Shape:
    """The shape of a shipped model padded to a size: a number of parameters such as "1B", "0.3B" or "60M".

    Llama 3.2 has a feed-forward width of 4 times the hidden width H, and 4 heads to a key and value head. With these
    proportions L layers have 14.5 L H^2 parameters. L is the shipped model's, or more where H would exceed 128 L. H is
    the nearest multiple of 256. The feed-forward width makes up for the rest, in quarters of H.

    "120L" adds layers alone, up to 120. In a GGUF file they are of Q4_0: such a model takes long but reads few bytes.
    That is for two processes on one machine, which share its memory bandwidth, as two devices do not.
    """
    if found := re.fullmatch(r"(\d+)L", size):
        old = _shipped_shape(which)
        if int(found[1]) < old.layers:
            raise ModelError(f"the {which} has {old.layers} layers already")
        return dataclasses.replace(old, layers=int(found[1]))
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MB])", size)
    if not found:
        raise ModelError(f"size {size!r} is not understood; write it like 1B, 0.3B, 60M or 120L")
    wanted = float(found[1]) * {"M": 1e6, "B": 1e9}[found[2]]
    old = _shipped_shape(which)
    quarter = 4 * old.head
    layers = max(old.layers, round((wanted / (14.5 * MAX_WIDTH_PER_LAYER**2)) ** (1 / 3)))
    hidden = quarter * max(1, round(math.sqrt(wanted / (14.5 * layers)) / quarter))
    hidden = max(hidden, quarter * old.kv_heads)  # the key and value heads fit, and so does all else
    bare = Shape(layers, hidden, 0, hidden // old.head, hidden // quarter, old.head, old.vocabulary)
    step = hidden // 4
    inner = step * max(math.ceil(old.inner / step), round((wanted - bare.parameters) / (3 * layers * hidden) / step))
    new = Shape(layers, hidden, inner, bare.heads, bare.kv_heads, old.head, old.vocabulary)
    if not 0.75 < new.parameters / wanted < 1.25:
        raise ModelError(f"the {which} cannot be padded to {size}: it has at least {new.parameters / 1e6:.0f}M then")
    return new


def padded(which: Literal["target", "draft"], size: str, dtype: Type = "bf16", runtime: Runtime = "llamacpp") -> str:
    """Path of a shipped model padded to a size such as "1B", "0.3B" or "60M". It is made once and cached.

    Returns a GGUF file for llama.cpp, and a model directory for transformers. A parameter takes 2 bytes of disk, or 1
    in q8_0. Raises ModelError.
    """
    new = shape(which, size)
    if runtime == "transformers" and dtype != "bf16":
        raise ModelError(f"transformers' models are padded in bf16, not in {dtype}")
    gguf_file = cached_gguf(which, dtype)  # also makes the cache's directory
    source = gguf_file if runtime == "llamacpp" else directory(which)
    digest = hashlib.sha256(f"{FORMAT} {new}".encode())
    for file in [source] if source.is_file() else sorted(source.iterdir()):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    suffix = ".gguf" if runtime == "llamacpp" else ""
    out = gguf_file.with_name(f"{which}-{size}-{dtype}-{digest.hexdigest()[:16]}{suffix}")
    if not out.exists():
        _appear(out, lambda part: _gguf(which, source, part, new) if suffix else _directory(which, source, part, new))
    return str(out)


def model(which: Literal["target", "draft"], size: str | None, runtime: Runtime) -> str:
    """Path of a shipped model, padded to a size such as "0.3B" or "0.3B-q8_0" unless it is None or "shipped".

    Raises ModelError if there is no such size or type.
    """
    if not size or size == "shipped":
        return shipped(which, runtime)
    number, _, dtype = size.partition("-")
    if dtype not in ("", "bf16", "q8_0"):
        raise ModelError(f"{dtype!r} is not a type to pad to: bf16 or q8_0")
    return padded(which, number, "q8_0" if dtype == "q8_0" else "bf16", runtime)


def _appear(out: Path, write: Callable[[Path], None]) -> None:
    """Writes a file or folder beside its place, and then moves it there. So nobody sees half of it."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.part") as folder:
        part = Path(folder) / out.name
        write(part)
        try:
            part.rename(out)
        except OSError:
            if not out.exists():  # another process has made it meanwhile, and a directory does not replace it
                raise


def _config(source: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    return config


def _shipped_shape(which: Literal["target", "draft"]) -> Shape:
    config = _config(directory(which))
    if not config["tie_word_embeddings"]:
        raise ModelError(f"the shipped {which} has an output matrix of its own, which padding does not know")
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        inner=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head=config["head_dim"],
        vocabulary=config["vocab_size"],
    )


def _places(old: Shape, new: Shape, axis: Axis) -> NDArray[np.int64]:
    """Indices of the old values of an axis in the new one."""
    if axis != "heads":
        return np.arange(old.length(axis))
    # Each key and value head serves a group of neighbouring heads. The groups become larger.
    heads = np.arange(old.heads)
    group = old.heads // old.kv_heads
    first = (heads // group * (new.heads // new.kv_heads) + heads % group) * old.head
    moved: NDArray[np.int64] = (first[:, None] + np.arange(old.head)).ravel()
    return moved


def _matrix(values: Bytes | None, old: Shape, new: Shape, axes: tuple[Axis, ...], kind: Any) -> Bytes:
    """A padded matrix as it lies in the file. Bytes of 0 mean 0 in every type. None: a matrix of zeros."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = (new.length(axis) for axis in axes)
    out = np.zeros((rows, columns // block, size), dtype=np.uint8)
    if values is not None:
        down, across = (_places(old, new, axis) for axis in axes)
        out[np.ix_(down, across[::block] // block)] = values.reshape(len(down), len(across) // block, size)
    return out.reshape(rows, columns // block * size)


def _norm(values: Floats | None, old: Shape, new: Shape) -> Floats:
    """The weights of a norm over the new width. They become smaller, as the mean square does."""
    out = np.zeros(new.hidden, dtype=np.float32)
    if values is not None:
        out[: old.hidden] = values * math.sqrt(old.hidden / new.hidden)
    return out


def _gguf(which: Literal["target", "draft"], source: Path, out: Path, new: Shape) -> None:
    """Writes a GGUF file with the metadata of another, and its tensors padded."""
    old = _shipped_shape(which)
    reader = gguf.GGUFReader(source)
    arch = "llama"
    changed: dict[str, Any] = {
        gguf.Keys.General.NAME: f"duo {which}, padded",
        gguf.Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): new.hidden,
        gguf.Keys.LLM.BLOCK_COUNT.format(arch=arch): new.layers,
        gguf.Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): new.inner,
        gguf.Keys.Attention.HEAD_COUNT.format(arch=arch): new.heads,
        gguf.Keys.Attention.HEAD_COUNT_KV.format(arch=arch): new.kv_heads,
    }
    writer = gguf.GGUFWriter(out, arch)
    for name, field in reader.fields.items():
        # The writer adds these itself.
        if name.startswith("GGUF.") or name == gguf.Keys.General.ARCHITECTURE:
            continue
        value = changed.get(name, field.contents())
        if name == gguf.Keys.Attention.LAYERNORM_RMS_EPS.format(arch=arch):
            value = value * old.hidden / new.hidden
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(name, value, field.types[0], field.types[-1] if array else None)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    kind = tensors["token_embd.weight"].tensor_type
    added = gguf.GGMLQuantizationType.Q4_0 if new.hidden == old.hidden else kind
    for _, name, axes in new.tensors():
        shape = [new.length(axis) for axis in axes]
        if len(axes) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            its = kind if name in tensors else added
            block, size = gguf.GGML_QUANT_SIZES[its]
            bytes_shape = (shape[0], shape[1] // block * size)
            writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), math.prod(bytes_shape), its)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, name, axes in new.tensors():
        data, its = (tensors[name].data, kind) if name in tensors else (None, added)
        writer.write_tensor_data(_norm(data, old, new) if len(axes) == 1 else _matrix(data, old, new, axes, its))
    writer.close()


def _directory(which: Literal["target", "draft"], source: Path, out: Path, new: Shape) -> None:
    """Writes a model directory for transformers. Matrices are in bf16, norms in float32, to keep them exact."""
    old = _shipped_shape(which)
    out.mkdir()
    for file in _COPIED:
        shutil.copyfile(source / file, out / file)
    config = _config(source)
    config |= {
        "hidden_size": new.hidden,
        "intermediate_size": new.inner,
        "num_hidden_layers": new.layers,
        "num_attention_heads": new.heads,
        "num_key_value_heads": new.kv_heads,
        "rms_norm_eps": config["rms_norm_eps"] * old.hidden / new.hidden,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, _, axes in new.tensors():
        shape = [new.length(axis) for axis in axes]
        begin, end = end, end + math.prod(shape) * (4 if len(axes) == 1 else 2)
        dtype = "F32" if len(axes) == 1 else "BF16"
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    tensors = read_safetensors(source / "model.safetensors")
    kind = gguf.GGMLQuantizationType.BF16
    with (out / "model.safetensors").open("wb") as weights:
        weights.write(len(text).to_bytes(8, "little") + text)
        for name, _, axes in new.tensors():
            values = tensors.get(name)
            if len(axes) == 1:
                _norm(values, old, new).tofile(weights)
            else:
                raw = None if values is None else gguf.quants.quantize(values, kind).view(np.uint8)
                _matrix(raw, old, new, axes, kind).tofile(weights)
