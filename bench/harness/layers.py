"""GGUF models with fewer or more layers: draft models that are cut down, and targets that only take longer.

A layer that is left out makes the model worse and faster. A layer that is added does nothing, because the matrices that
write into the residual stream are zeros: the model takes longer and says the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from duo.errors import ModelError

_BLOCK = re.compile(r"blk\.(\d+)\.(.*)")
_WRITES = ("attn_output.weight", "ffn_down.weight")
"""The matrices of a layer that write into the residual stream. Bytes of 0 mean 0 in every type."""


def with_layers(source: Path, out: Path, kept: Sequence[int], idle: int = 0) -> None:
    """Write a model with these layers of another, in this order, and `idle` layers that do nothing after them.

    Raises ModelError if a layer is not there.
    """
    reader = gguf.GGUFReader(source)
    arch = str(reader.fields["general.architecture"].contents())
    key = gguf.Keys.LLM.BLOCK_COUNT.format(arch=arch)
    there = int(reader.fields[key].contents())
    if not kept or max(kept) >= there:
        raise ModelError(f"{source} has layers 0 to {there - 1}, and not {list(kept)}")
    writer = gguf.GGUFWriter(out, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = len(kept) + idle if name == key else field.contents()
        items = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, value, field.types[0], items)
    blocks: dict[int, dict[str, gguf.gguf_reader.ReaderTensor]] = {}
    for tensor in reader.tensors:
        match = _BLOCK.fullmatch(tensor.name)
        if match is None:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            blocks.setdefault(int(match[1]), {})[match[2]] = tensor
    for number, layer in enumerate([*kept, *[kept[-1]] * idle]):
        for name, tensor in blocks[layer].items():
            silent = number >= len(kept) and name in _WRITES
            data = np.zeros_like(tensor.data) if silent else tensor.data
            writer.add_tensor(f"blk.{number}.{name}", data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
