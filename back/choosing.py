"""Finds a draft model on this disk that has the target's vocabulary.

The rule: of all models with the same vocabulary, the smallest, if it is much smaller than the target. A draft model has
to be fast first of all. `python -m lead match` says which one is really the best.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from duo.engines import memory
from duo.engines.load import meanings_in
from duo.engines.meaning import Sample
from duo.errors import FileError, ModelError
from duo.program.hub.caches import LocalModel, local_models, places

log = logging.getLogger("back")

SHOWN = 3
"""How many models are named."""
SMALLER = 2
"""The target must have this many times the bytes. A draft that is nearly as large gives nothing, nor does the target.

Types of weights differ, so this is far from the 10 and more that docs/pairs.md advises.
"""


def folder(given: str) -> Path | None:
    """The folder that --models-dir names; None for none. Raises FileError if it is not there."""
    if not given:
        return None
    found = Path(given).expanduser()
    if not found.is_dir():
        raise FileError(f"--models-dir {given}: there is no such folder")
    return found


def suitable(target: Sample, folder: Path | None) -> Iterator[LocalModel]:
    """The models on this disk that could draft for the target, smallest first. folder: one more to search.

    They have its vocabulary. Those that are not much smaller are left out, if its size is known.
    """
    for model in local_models(folder):
        if target.model_bytes and SMALLER * model.bytes > target.model_bytes:
            return
        try:
            if target.resembles(meanings_in(str(model.path))):
                yield model
        except ModelError as error:
            log.debug("%s: %s", model.name, error)


def choose(target: Sample, folder: Path | None) -> LocalModel:
    """The draft model to take. Raises ModelError."""
    found, free = list(islice(suitable(target, folder), 2)), memory.available()
    if not found:
        raise ModelError(
            f"-m auto: no model here has the target's vocabulary{_half(target)} (searched: {_searched(folder)}): give "
            "one with -m or -hf, docs/pairs.md names some, or name a folder with --models-dir"
        )
    model = found[0]
    if free is not None and model.bytes >= free:
        raise ModelError(
            f"-m auto: {model.name} is the smallest model here with the target's vocabulary, and its {_size(model)} do "
            f"not fit into the {memory.size(free)} of memory that are free"
        )
    if not target.model_bytes and len(found) == 1:
        log.warning(
            "-m auto: the lead does not say how large its target is, and %s is the only model here with its "
            "vocabulary: if that is the target itself, it makes nothing faster; give a smaller one with -m",
            model.name,
        )
    return model


def advice(target: Sample, folder: Path | None) -> str:
    """A line about the models here that a back could take instead."""
    found = list(islice(suitable(target, folder), SHOWN))
    if not found:
        return (
            f"no model here has the lead's vocabulary{_half(target)} (searched: {_searched(folder)}); docs/pairs.md "
            "names some"
        )
    named = ", ".join(f"-m {shlex.quote(model.name)} ({_size(model)})" for model in found)
    return f"models here with the lead's vocabulary, smallest first: {named}; -m auto takes the first one"


def _half(target: Sample) -> str:
    """What is asked of a draft model beside the vocabulary, in words."""
    return f" and at most half of its {memory.size(target.model_bytes)}" if target.model_bytes else ""


def _searched(folder: Path | None) -> str:
    there = [str(place) for place in places(folder) if place.is_dir()]
    return ", ".join(there) or "no cache of Hugging Face, Ollama, LM Studio or llama.cpp is here"


def _size(model: LocalModel) -> str:
    return memory.size(model.bytes)
