"""Copies of a GGUF file, in parts or with other entries in the header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf


def copy(source: Path, out: Path, parts: int = 1, changes: Mapping[str, Any] | None = None) -> None:
    """Write a GGUF file again, in `parts` parts (`OUT-00001-of-0000N.gguf`), with other values for some keys.

    A new `general.architecture` also renames the keys that begin with the old one.
    """
    changes = changes or {}
    reader = gguf.GGUFReader(source)
    was = str(reader.fields["general.architecture"].contents())
    architecture = str(changes.get("general.architecture", was))
    per_part = -(-len(reader.tensors) // parts) if parts > 1 else 0
    writer = gguf.GGUFWriter(out, architecture, split_max_tensors=per_part)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        items = entry.types[1] if len(entry.types) > 1 else None
        key = name.replace(f"{was}.", f"{architecture}.", 1) if name.startswith(f"{was}.") else name
        writer.add_key_value(key, changes.get(name, entry.contents()), entry.types[0], items)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
