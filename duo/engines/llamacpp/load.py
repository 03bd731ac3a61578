"""Loads a GGUF file, and chooses the engine that serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from duo.engines.base import Engine
from duo.engines.llamacpp import flash, native
from duo.engines.llamacpp.chains import ChainEngine
from duo.engines.llamacpp.engine import LlamaCppEngine
from duo.engines.llamacpp.runtime import Model
from duo.engines.llamacpp.states import StateTreeEngine
from duo.engines.options import EngineOptions

TRIAL_CONTEXT = 512
"""Tokens per slot of a trial engine. A longer context takes time to make, for llama.cpp clears all cells."""


def load(path: Path, options: EngineOptions, progress: Callable[[float], None]) -> Engine:
    """Load the file. The engine follows from the model's memory and from the options.

    Raises ModelError with a line that says what is wrong.
    """
    options = replace(options, gpu_layers=native.gpu_layers(options.gpu_layers))
    model = Model(path, options, progress)
    options = flash.choose(model, options)
    engine: Engine
    if model.recurrent and options.drafts:
        engine = StateTreeEngine(model, options)
    elif model.recurrent or (options.chains and not options.gpu_layers):
        if options.trial and not model.recurrent:
            model.trial_context = TRIAL_CONTEXT
        engine = ChainEngine(model, options)
    else:
        engine = LlamaCppEngine(model, options)
    progress(1.0)
    return engine


def after_trial(engine: Engine, chains: bool) -> Engine:
    """The engine that serves a model with attention after a trial: chains with the same bits, or trees.

    It may be a new engine over the same weights. The given one must not be used afterwards.
    """
    if not isinstance(engine, ChainEngine) or not engine.options.chains or engine.recurrent:
        return engine
    if chains and not engine.options.trial:
        return engine
    options = replace(engine.options, chains=chains, trial=False)
    model = engine.release()
    model.trial_context = None
    if chains:
        return ChainEngine(model, options)
    return LlamaCppEngine(model, replace(options, flash_attention=model.flash))
