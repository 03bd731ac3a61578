"""Chooses the runtime of a model, and loads the model there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from duo.engines import gguf_files
from duo.engines.base import Engine
from duo.engines.heads import Head
from duo.engines.meaning import Meanings
from duo.engines.options import EngineOptions, Progress, Runtime
from duo.engines.transformers.directory import is_checkpoint, locate
from duo.errors import ModelError
from duo.installing import command


def runtime_of(model: str) -> Literal["transformers", "llamacpp"]:
    """The runtime of `model`. llama.cpp serves a GGUF file, and a folder with nothing else to run.

    Many folders of GGUF files also hold the config.json of the original model.
    """
    path = Path(model)
    if not path.is_dir() and (path.suffix.lower() == ".gguf" or gguf_files.is_gguf(path)):
        return "llamacpp"
    if path.is_dir() and not is_checkpoint(path) and gguf_files.models_in(path):
        return "llamacpp"
    return "transformers"


def load(model: str, runtime: Runtime, options: EngineOptions, progress: Progress | None = None) -> Engine:
    """Load a model. It is a GGUF file or its folder, a directory in the Hugging Face layout, or a hub id.

    Raises ModelError if the model cannot be found or run, or if the runtime is not installed.
    """
    chosen = runtime_of(model) if runtime == "auto" else runtime
    report = progress or (lambda share: None)
    if chosen == "llamacpp":
        _need("llama_cpp", "llamacpp")
        from duo.engines.llamacpp.load import load as load_gguf

        return load_gguf(gguf_files.locate(Path(model)), options, report)
    _need("transformers", "transformers")
    _need("torch", "transformers")
    locate(model)
    from duo.engines.transformers.engine import TransformersEngine

    return TransformersEngine(model, options, report)


def load_head(engine: Engine, path: str = "") -> Head | None:
    """The head in this folder; without one, the head that comes with the engine's model, if there is any.

    Raises ModelError if it cannot be used.
    """
    inner = getattr(engine, "inner", engine)
    if engine.runtime != "transformers":
        if path:
            raise ModelError(f"a head needs the hidden states of {engine.name}, which only transformers gives here")
        return None
    from duo.engines.transformers.engine import TransformersEngine
    from duo.engines.transformers.heads import load as of_heads

    assert isinstance(inner, TransformersEngine), "no other engine has this runtime"
    return of_heads.load(inner, path) if path else of_heads.find(inner)


def meanings_in(model: str, runtime: Runtime = "auto") -> Meanings:
    """What the tokens of a model mean, without loading its weights. `model`: as for `load`. Raises ModelError."""
    chosen = runtime_of(model) if runtime == "auto" else runtime
    if chosen == "llamacpp":
        _need("llama_cpp", "llamacpp")
        from duo.engines.llamacpp import vocabulary as of_gguf

        return of_gguf.meanings_in(gguf_files.locate(Path(model)))
    _need("transformers", "transformers")
    from duo.engines.transformers import vocabulary as of_checkpoint

    return of_checkpoint.meanings_in(*locate(model))


def after_trial(engine: Engine, chains: bool) -> Engine:
    """The engine that serves, after a trial engine was compared for the same bits. chains: it gives them.

    It may be a new engine over the same weights. The given one must not be used afterwards.
    """
    if engine.runtime == "llamacpp":
        from duo.engines.llamacpp import load as llamacpp

        return llamacpp.after_trial(engine, chains)
    if not chains and (attend := getattr(engine, "attend_by_row", None)):
        attend(False)
    return engine


def _need(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise ModelError(f"this model needs {module}, which is not installed: {command(extra)}")
