"""Chooses which files of a repository make a model. It sees names only, no network and no disk."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from duo.errors import ModelError

DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")
"""What llama-server takes if nobody names a quantisation, before the first file there is."""
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
CONFIG = "config.json"

_SETTINGS = (
    CONFIG, "generation_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tekken.json", "chat_template.json", "*.jinja", "additional_chat_templates/*.jinja",
    "*.model",
)  # fmt: skip
"""Files of a checkpoint that transformers reads, beside its weights."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NO_MODEL = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""GGUF files with these words in their names belong to a model, but are none. llama-server leaves them out too."""
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(r"(?:^|[-._])((?:UD-)?(?:I?Q\d|TQ\d|MXFP\d|NVFP\d|BF16|F16|F32|FP16|FP32)\w*)$", re.IGNORECASE)
_LISTED = 12
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)(?:/tree/main|/(?:blob|resolve)/main/(.+))?"
)
"""The address of a repository, or of a file in it, as a browser shows it."""
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


class Wanted(NamedTuple):
    """What the flags ask for. quant: of a GGUF, empty for the default. file: one file by name, empty for any."""

    repository: str
    quant: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"{self.repository}:{self.quant}" if self.quant else self.repository


class Source(NamedTuple):
    """Where files come from and go to. None: what the hub's own variables say, such as HF_ENDPOINT and HF_HUB_CACHE.

    offline: use the cache only.
    """

    endpoint: str | None = None
    cache: Path | None = None
    token: str | None = None
    offline: bool = False


class Choice(NamedTuple):
    """The files of a model. first: the GGUF to load; empty if the model is their folder."""

    files: Sequence[str]
    first: str = ""


def wanted(text: str, file: str = "") -> Wanted:
    """Take `user/repo[:quant]` apart, or the address of a page of the hub. Raises ModelError."""
    text = text.strip()
    if page := _PAGE.fullmatch(text.partition("?")[0].rstrip("/")):
        text, file = page[1], file or page[2] or ""
    repository, _, quant = text.partition(":")
    if not is_repository(repository):
        raise ModelError(f"-hf {text}: a repository of the hub is named user/repo or user/repo:quant")
    return Wanted(repository, quant, file)


def is_repository(text: str) -> bool:
    """Whether a text has the form user/repo."""
    return _REPOSITORY.fullmatch(text) is not None


def choose(names: Collection[str], asked: Wanted, ggufs: bool = True, checkpoints: bool = True) -> Choice:
    """The files to load of a repository with files of these names.

    ggufs, checkpoints: whether the runtime takes GGUF files, and folders that transformers reads. If it takes both, a
    GGUF is preferred. The weights of a checkpoint with an index are not in the choice yet: see `shards`. Raises
    ModelError, which says what the repository has.
    """
    models = _models(names)
    if asked.file:
        return _by_name(names, models, asked)
    if not ggufs and asked.quant:
        raise ModelError(f"-hf {asked}: a quantisation is that of a GGUF file, which this runtime does not read")
    if ggufs and models:
        return _by_quant(models, asked)
    if checkpoints and CONFIG in names and {INDEX, WEIGHTS} & set(names):
        if asked.quant:
            raise ModelError(f"{asked.repository} has no GGUF files but safetensors: leave :{asked.quant} out")
        return _checkpoint(names)
    raise ModelError(_nothing(names, models, asked, ggufs))


def shards(index: Mapping[str, Any], names: Collection[str], repository: str) -> list[str]:
    """The files with weights that an index lists. Raises ModelError."""
    listed = index.get("weight_map")
    if not isinstance(listed, Mapping) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise ModelError(f"{repository}: {INDEX} lists no files")
    files = sorted(set(listed.values()))
    if missing := [name for name in files if name not in names or not name.endswith(".safetensors")]:
        raise ModelError(f"{repository} lacks {_list(missing)}, which its {INDEX} lists")
    return files


def _models(names: Collection[str]) -> dict[str, list[str]]:
    """The GGUF models, each by its first file, with all its files. What lacks a part is none."""
    models: dict[str, list[str]] = {}
    there = set(names)
    for name in sorted(names):
        if not name.lower().endswith(".gguf") or any(word in name.rpartition("/")[2].lower() for word in _NO_MODEL):
            continue
        stem, suffix = name[:-5], name[-5:]
        part = _PART.search(stem)
        if part is None:
            models[name] = [name]
        elif int(part[1]) == 1:
            parts = [f"{stem[: part.start()]}-{i:05}-of-{part[2]}{suffix}" for i in range(1, int(part[2]) + 1)]
            if there.issuperset(parts):
                models[name] = parts
    return models


def _stem(name: str) -> str:
    """The name without its suffix and the number of a part."""
    return _PART.sub("", name[:-5])


def _quants(firsts: Collection[str]) -> list[str]:
    """The quantisations of GGUF models, by their first files. A file without one stands for itself."""
    found = [(_QUANT.search(_stem(first)), first) for first in firsts]
    return list(dict.fromkeys(match[1] if match else first for match, first in found))


def _by_quant(models: Mapping[str, Sequence[str]], asked: Wanted) -> Choice:
    for quant in [asked.quant] if asked.quant else DEFAULT_QUANTS:
        word = re.escape(quant)
        # A whole word first: Q4_0 is not IQ4_0.
        for pattern in (rf"(?:^|[-._/]){word}(?=[-./]|$)", rf"{word}(?=[-./]|$)"):
            for first, files in models.items():
                if re.search(pattern, first[:-5], re.IGNORECASE):
                    return Choice(files, first)
    if asked.quant:
        raise ModelError(f"{asked.repository} has no {asked.quant}, but {_list(_quants(models))}")
    first = next(iter(models))
    return Choice(models[first], first)


def _by_name(names: Collection[str], models: Mapping[str, Sequence[str]], asked: Wanted) -> Choice:
    found = next((name for name in names if name.lower() == asked.file.lower()), "")
    if not found.lower().endswith(".gguf"):
        there = f"it has {_list(list(models))}" if models else "it has no GGUF files"
        raise ModelError(f"--hf-file {asked.file}: {asked.repository} has no GGUF of this name; {there}")
    return Choice(next((files for files in models.values() if found in files), [found]), found)


def _checkpoint(names: Collection[str]) -> Choice:
    settings = [name for name in names if any(fnmatchcase(name, form) for form in _SETTINGS) and _flat(name)]
    return Choice([*sorted(settings), WEIGHTS if WEIGHTS in names else INDEX])


def _flat(name: str) -> bool:
    """Whether transformers looks for a file of this name. `*` also matches slashes."""
    return "/" not in name or name.startswith("additional_chat_templates/")


def _nothing(names: Collection[str], models: Collection[str], asked: Wanted, ggufs: bool) -> str:
    """Why a repository holds no model for the runtime."""
    where = asked.repository
    if models:
        return f"{where} has GGUF files only, and --engine transformers reads safetensors: leave --engine out"
    if CONFIG in names and {INDEX, WEIGHTS} & set(names):
        return f"{where} has no GGUF files but safetensors, and --engine llamacpp reads GGUF: leave --engine out"
    if any(name.lower().endswith(".gguf") for name in names):
        return f"{where} has GGUF files, but none is a whole model"
    if any(fnmatchcase(name, form) for name in names for form in _PICKLED):
        return f"{where} has pickled weights only; they can run code and are not read: look for one with safetensors"
    both = "neither GGUF nor safetensors of a model"
    return f"{where} has {both if ggufs else 'no safetensors of a model'}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
