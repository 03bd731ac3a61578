"""The beginning of a GGUF file: its entries, without a tensor."""

from __future__ import annotations

import struct
from collections.abc import Mapping


def header(entries: Mapping[str, str]) -> bytes:
    made = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(entries))
    for key, value in entries.items():
        made += _text(key) + struct.pack("<I", 8) + _text(value)
    return made


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
