"""Reads the files of a head. Whatever is wrong becomes a ModelError of one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from duo.errors import ModelError, first_line


class Checkpoint:
    """The config and the tensors of a head. Tensors that nobody takes are ignored."""

    def __init__(self, what: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.what = what
        self.config = config
        self._tensors = tensors
        self._dtype = dtype

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def get(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape, in the target's type of numbers. Raises ModelError."""
        if name not in self._tensors:
            raise ModelError(f"{self.what} lacks the tensor {name}: get the whole head again")
        tensor = self._tensors[name]
        if shape and tuple(tensor.shape) != shape:
            raise ModelError(f"{self.what}: {name} has the shape {[*tensor.shape]} and not {[*shape]}: get it again")
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number of the config that is at least 0. Raises ModelError."""
        value = self.config.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ModelError(f"{self.what}: config.json has no number {name}: get the whole head again")
        return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a head's folder. Raises ModelError."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no config.json: give the folder of a head, with its weights") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json cannot be read: {first_line(error)}; get it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder}/config.json is no JSON object: get it again")
    return config


def read_tensors(folder: Path, device: torch.device, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of the folder whose names begin with the prefix. Raises ModelError."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.pt")) or any(folder.glob("*.bin"))
        why = " (pickled ones can run code and are not read): convert them" if pickled else ": get the whole head"
        raise ModelError(f"{folder} holds no .safetensors weights{why}")
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt", device=str(device)) as stored:
                found |= {name: stored.get_tensor(name) for name in stored.keys() if name.startswith(prefix)}  # noqa: SIM118 - it is no dict
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read: {first_line(error)}; get it again") from error
    return found


def has_tensors(folder: Path, prefix: str) -> bool:
    """Whether a model's folder has tensors whose names begin so. No weights are read."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return any(name.startswith(prefix) for name in names)
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as stored:
                if any(name.startswith(prefix) for name in stored.keys()):  # noqa: SIM118 - it is no dict
                    return True
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):  # the model itself will say so
        return False
    return False
