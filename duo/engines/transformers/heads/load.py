"""Tells the formats of heads apart, and loads one for a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duo.engines.heads import Head
from duo.engines.transformers.engine import TransformersEngine
from duo.engines.transformers.heads import mtp
from duo.engines.transformers.heads.checkpoint import Checkpoint, has_tensors, read_config, read_tensors
from duo.engines.transformers.heads.eagle3 import Eagle3, flat, renamed
from duo.engines.transformers.heads.medusa import Medusa
from duo.engines.transformers.heads.mlp import MLPSpeculator
from duo.engines.transformers.heads.target import Target
from duo.errors import ModelError

FOLDER = "speculator"
"""A folder of this name beside a model's weights holds a head for the model."""


def load(engine: TransformersEngine, path: str) -> Head:
    """The head in this folder. Raises ModelError."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ModelError(f"there is no folder {path}: give the folder of a head, with config.json and weights")
    config = flat(read_config(folder))
    kind = _kind(config)
    if kind is None:
        raise ModelError(
            f"{path} holds no head that is known here (Medusa, MLP speculator or EAGLE-3): with --model-draft it may "
            "serve as a draft"
        )
    target = Target(engine)
    what = f"the head in {path}"
    tensors = read_tensors(folder, target.device)
    if kind is Eagle3:
        tensors = {renamed(name): tensor for name, tensor in tensors.items()}
    return kind(target, Checkpoint(what, config, tensors, target.dtype))


def find(engine: TransformersEngine) -> Head | None:
    """The head that comes with the model: part of its checkpoint, or in a folder beside it. None if there is none.

    Raises ModelError if it cannot be used.
    """
    folder = Path(engine.source)
    if (folder / FOLDER / "config.json").is_file():
        return load(engine, str(folder / FOLDER))
    if not has_tensors(folder, mtp.PREFIX):
        return None
    target = Target(engine)
    tensors = read_tensors(folder, target.device, mtp.PREFIX)
    return mtp.Mtp(target, Checkpoint(f"{engine.name}'s own head", {}, tensors, target.dtype))


def _kind(config: Mapping[str, Any]) -> type[Medusa] | type[MLPSpeculator] | type[Eagle3] | None:
    """The kind of head, by config.json."""
    architectures = " ".join(map(str, config.get("architectures") or ()))
    if config.get("model_type") == "mlp_speculator" or "MLPSpeculator" in architectures:
        return MLPSpeculator
    if "medusa_num_heads" in config:
        return Medusa
    if "Eagle3" in architectures or "draft_vocab_size" in config:
        return Eagle3
    return None
