"""The models that measurements and tests run, by runtime."""

from __future__ import annotations

from typing import Literal

from duo import models
from duo.models.export import cached_gguf

Runtime = Literal["transformers", "llamacpp"]
RUNTIMES: tuple[Runtime, ...] = ("transformers", "llamacpp")


def shipped(which: Literal["target", "draft"], runtime: Runtime) -> str:
    """Path of a shipped model in the form that the runtime reads; llama.cpp's is made once and cached."""
    if runtime == "llamacpp":
        return str(cached_gguf(which))
    return str(models.TARGET if which == "target" else models.DRAFT)
