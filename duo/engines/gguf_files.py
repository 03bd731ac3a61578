"""Finds the GGUF file of a path, and reads its header.

The path is a file, the first of several parts, or a folder with one model.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import IO, Any

from duo.errors import ModelError

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
"""How llama.cpp names the parts of a model."""
_BESIDE = ("mmproj",)
"""Files with these prefixes lie beside a model but are none: encoders of images and sound."""
_LISTED = 6


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF does. Ollama's files have no suffix."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def model_name(path: Path) -> str:
    """The model's name: the file's, without its suffix and the number of a part."""
    name = _PART.sub("", path.name)
    return name[: -len(path.suffix)] if name == path.name and path.suffix.lower() == ".gguf" else name


def models_in(folder: Path) -> list[Path]:
    """The models of a folder, each by its file or one of its parts."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    files = [path for path in files if not path.name.lower().startswith(_BESIDE)]
    return list({model_name(path): path for path in reversed(files)}.values())[::-1]


def parts_of(path: Path) -> list[Path]:
    """All files of a model, by its first one."""
    if _PART.search(path.name) is None:
        return [path]
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return [file for file in beside if _PART.search(file.name) and model_name(file) == model_name(path)]


def locate(path: Path) -> Path:
    """The file to load. If the model has several parts, that is the first one.

    Raises ModelError if parts are missing, or if a folder does not hold exactly one model.
    """
    if path.is_dir():
        found = models_in(path)
        if not found:
            raise ModelError(f"{path} holds no .gguf file: name a GGUF file, or a folder with one model")
        if len(found) > 1:
            names = ", ".join(one.name for one in found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
            raise ModelError(f"{path} holds {len(found)} models, name one of them: {names}")
        path = found[0]
    part = _PART.search(path.name)
    if part is None:
        return path
    count = int(part[2])
    stem = path.name[: part.start()]
    parts = [path.with_name(f"{stem}-{i:05}-of-{part[2]}{path.suffix}") for i in range(1, count + 1)]
    missing = [one.name for one in parts if not one.is_file()]
    if missing and path.is_file():
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"of the {count} parts of {path}, {missing[0]}{more} cannot be found: download all into one folder"
        )
    return parts[0] if parts and path.is_file() else path


_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONG = 1 << 20
"""No header has longer strings (bytes) or arrays (items) before the tokenizer."""


def metadata(path: Path) -> dict[str, Any]:
    """The entries of a GGUF header before the tokenizer, with short names such as `attention.key_length`.

    llama.cpp gives out these entries too, but no arrays. What cannot be read is left out.
    """
    found: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            _, version, _, count = struct.unpack("<4sIQQ", file.read(24))
            for _ in range(count if version >= 2 else 0):
                key = _value(file, _STRING)
                if key.startswith("tokenizer."):
                    break
                found[key] = _value(file, _number(file, "<I"))
    except (OSError, struct.error, ValueError, KeyError):
        pass
    prefix = f"{found.get('general.architecture', '')}."
    return {key.removeprefix(prefix): value for key, value in found.items()}


def _number(file: IO[bytes], form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _value(file: IO[bytes], kind: int) -> Any:
    if kind in _NUMBERS:
        return _number(file, _NUMBERS[kind])
    item = _number(file, "<I") if kind == _ARRAY else kind
    length = _number(file, "<Q")
    # No header has arrays of arrays.
    if length > _LONG or kind not in (_STRING, _ARRAY) or item == _ARRAY:
        raise ValueError("this is not how a GGUF file begins")
    if kind == _STRING:
        return file.read(length).decode("utf-8", "replace")
    return [_value(file, item) for _ in range(length)]
