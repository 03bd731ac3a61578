"""Finds a draft model on this disk that has the target's vocabulary.

The rule: of all models with the same vocabulary that fit into the free memory, the smallest. A draft model has to be
fast first of all. `python -m lead match` says which one is really the best.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from duo.engines import memory
from duo.engines.load import meanings_in
from duo.engines.meaning import Sample
from duo.errors import ModelError
from duo.program.hub.caches import LocalModel, local_models, places

log = logging.getLogger("back")

SHOWN = 3
"""How many models are named."""


def suitable(target: Sample, folder: Path | None) -> Iterator[LocalModel]:
    """The models on this disk with the target's vocabulary, smallest first. folder: one more to search."""
    for model in local_models(folder):
        try:
            if target.resembles(meanings_in(str(model.path))):
                yield model
        except ModelError as error:
            log.debug("%s: %s", model.name, error)


def choose(target: Sample, folder: Path | None) -> LocalModel:
    """The draft model to take. Raises ModelError."""
    model, free = next(suitable(target, folder), None), memory.available()
    if model is None:
        raise ModelError(
            f"-m auto: no model here has the target's vocabulary (searched: {_searched(folder)}): give one with -m or "
            "-hf, docs/pairs.md names some, or name a folder with --models-dir"
        )
    if free is not None and model.bytes >= free:
        raise ModelError(
            f"-m auto: {model.name} is the smallest model here with the target's vocabulary, and its {_size(model)} do "
            f"not fit into the {memory.size(free)} of memory that are free"
        )
    return model


def advice(target: Sample, folder: Path | None) -> str:
    """A line about the models here that a back could take instead."""
    found = list(islice(suitable(target, folder), SHOWN))
    if not found:
        return f"no model here has the lead's vocabulary (searched: {_searched(folder)}); docs/pairs.md names some"
    named = ", ".join(f"-m {model.name} ({_size(model)})" for model in found)
    return f"models here with the lead's vocabulary, smallest first: {named}; -m auto takes the first one"


def _searched(folder: Path | None) -> str:
    there = [str(place) for place in places(folder) if place.is_dir()]
    return ", ".join(there) or "no cache of Hugging Face, Ollama, LM Studio or llama.cpp is here"


def _size(model: LocalModel) -> str:
    return memory.size(model.bytes)
