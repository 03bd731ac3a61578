"""The models that programs have left on this disk, and those of a folder: whatever could draft."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from duo.engines import gguf_files
from duo.engines.transformers.directory import is_checkpoint
from duo.errors import ModelError
from duo.program.hub import ollama
from duo.program.hub.choice import CONFIG, INDEX, shards

_ENCODERS = ("bert", "clip", "t5")
"""Words in the names of GGUF architectures that do not continue a text."""
_CONTINUES = ("ForCausalLM", "ForConditionalGeneration")


class LocalModel(NamedTuple):
    """A model on this disk. name: what -m takes. bytes: of its weights."""

    name: str
    path: Path
    bytes: int


def local_models(folder: Path | None = None) -> list[LocalModel]:
    """The models of the hub's cache, Ollama, LM Studio, llama.cpp's cache and the folder, smallest first.

    Only those that an installed runtime can run.
    """
    found: dict[Path, LocalModel] = {}
    for model in _all(folder):
        found.setdefault(model.path.resolve(), model)
    return sorted(found.values(), key=lambda model: (model.bytes, model.name))


def places(folder: Path | None = None) -> list[Path]:
    """The folders that are searched, whether they exist or not."""
    home, llama = Path.home(), os.environ.get("LLAMA_CACHE")
    found = [
        _hub(), *ollama.folders(), home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models",
        Path(llama) if llama else home / ".cache" / "llama.cpp", folder,
    ]  # fmt: skip
    return [place for place in found if place is not None]


def _hub() -> Path | None:
    """The hub's cache; None if its library, which knows where it is, is not installed."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _all(folder: Path | None) -> Iterator[LocalModel]:
    of_ollama = set(ollama.folders())
    for place in places(folder):
        try:
            if place in of_ollama:
                yield from _of_ollama(place)
            elif place.is_dir():
                yield from _in_folder(place)
        except OSError:
            continue  # a place of another user


def _of_ollama(place: Path) -> Iterator[LocalModel]:
    for name in ollama.names(place):
        path = ollama.blob(name, [place])
        try:
            if path is not None and _runs(path):
                yield LocalModel(name.short, path, path.stat().st_size)
        except OSError:
            continue  # Ollama has removed it meanwhile


def _in_folder(place: Path) -> Iterator[LocalModel]:
    """The models in a folder and below it."""
    for name, folders, files in os.walk(place):
        folder = Path(name)
        folders[:] = sorted(one for one in folders if one not in ("blobs", ".locks", ".no_exist"))
        try:
            if any(file.lower().endswith(".gguf") for file in files):
                yield from filter(None, map(_gguf, gguf_files.models_in(folder)))
            if CONFIG in files and _continues(folder):
                yield LocalModel(str(folder), folder, sum(one.stat().st_size for one in folder.glob("*.safetensors")))
        except OSError:
            continue  # a broken link, or a file that is being written


def _gguf(path: Path) -> LocalModel | None:
    """None for what does not run, and for what has not been downloaded whole."""
    try:
        if _runs(gguf_files.locate(path)):
            return LocalModel(str(path), path, sum(part.stat().st_size for part in gguf_files.parts_of(path)))
    except (OSError, ModelError):
        pass
    return None


def _runs(path: Path) -> bool:
    """Whether a GGUF file is a model that continues a text, and llama.cpp is installed."""
    if find_spec("llama_cpp") is None:
        return False
    entries = gguf_files.metadata(path)
    architecture, kind = str(entries.get("general.architecture", "")), entries.get("general.type", "model")
    return bool(architecture) and kind == "model" and not any(word in architecture for word in _ENCODERS)


def _continues(folder: Path) -> bool:
    """Whether a checkpoint is whole and continues a text, and transformers is installed."""
    if find_spec("torch") is None or find_spec("transformers") is None or not is_checkpoint(folder):
        return False
    try:
        named = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("architectures") or []
        if (folder / INDEX).exists():
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            shards(index, [file.name for file in folder.iterdir()], folder.name)
        return any(str(name).endswith(_CONTINUES) for name in named)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, ModelError):
        return False
