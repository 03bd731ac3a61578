"""Which engine serves a GGUF file."""

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

TRIAL = 512
"""Tokens per slot while it is tried whether bits can be the same. llama.cpp clears all cells when it makes them."""


def load(path: Path, options: EngineOptions, progress: Callable[[float], None]) -> Engine:
    """Load the file, and choose the engine by what the model's memory allows and what is asked for.

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
            model.shortened = TRIAL
        engine = ChainEngine(model, options)
    else:
        engine = LlamaCppEngine(model, options)
    progress(1.0)
    return engine


def after_trial(engine: Engine, chains: bool) -> Engine:
    """Serve the weights of a model with attention after a trial: in chains with the same bits, or in trees.

    Another engine than the one returned is used up.
    """
    if not isinstance(engine, ChainEngine) or not engine.options.chains or engine.recurrent:
        return engine
    if chains and not engine.options.trial:
        return engine
    options = replace(engine.options, chains=chains, trial=False)
    model = engine.release()
    model.shortened = None
    if chains:
        return ChainEngine(model, options)
    return LlamaCppEngine(model, replace(options, flash_attention=model.flash))
