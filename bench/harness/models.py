"""The models that measurements and tests run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from duo import models
from duo.engines import Engine, EngineOptions, load
from duo.models.export import cached_gguf
from lead.target import TREE_ROWS

Runtime = Literal["transformers", "llamacpp"]
RUNTIMES: tuple[Runtime, ...] = ("transformers", "llamacpp")


def shipped(which: Literal["target", "draft"], runtime: Runtime) -> str:
    """Path of a shipped model in the form that the runtime reads. The GGUF file is made once and cached."""
    if runtime == "llamacpp":
        return str(cached_gguf(which))
    return str(models.TARGET if which == "target" else models.DRAFT)


def cache() -> Path:
    """The folder of duo in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duo"


def load_target(model: str, runtime: Runtime | Literal["auto"], threads: int = 1, context: int = 0) -> Engine:
    """Loads a target with as many rows as a lead gives it. More rows would make llama.cpp slower."""
    return load(model, runtime, EngineOptions(threads=threads, context=context, tree_rows=TREE_ROWS))
