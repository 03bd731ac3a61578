"""Which GGUF file a path means: a file, the first of several parts, or the only model in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from duo.errors import ModelError

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
"""How llama.cpp names the parts of a model."""
_BESIDE = ("mmproj",)
"""Files with these beginnings lie beside a model and are none: encoders of images and sound."""
_LISTED = 6


def model_name(path: Path) -> str:
    """The model's name: the file's, without its suffix and the number of a part."""
    name = _PART.sub("", path.name)
    return name[: -len(path.suffix)] if name == path.name and path.suffix.lower() == ".gguf" else name


def models_in(folder: Path) -> list[Path]:
    """The models of a folder, each by its file or one of its parts."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    files = [path for path in files if not path.name.lower().startswith(_BESIDE)]
    return list({model_name(path): path for path in reversed(files)}.values())[::-1]


def locate(path: Path) -> Path:
    """The file to load, which is the first part where there are several.

    Raises ModelError where parts are missing, or where a folder holds no model or more than one.
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
    suffix = path.suffix
    parts = [path.with_name(f"{stem}-{i:05}-of-{part[2]}{suffix}") for i in range(1, count + 1)]
    missing = [one.name for one in parts if not one.is_file()]
    if missing and path.is_file():
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"of the {count} parts of {path}, {missing[0]}{more} cannot be found: download all into one folder"
        )
    return parts[0] if parts and path.is_file() else path
