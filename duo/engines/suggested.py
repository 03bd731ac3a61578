"""How a model's makers suggest to sample from it, as far as its files say so.

Only values that stand in the files count. `do_sample` does not: transformers writes false into every file that nobody
edited, so it does not tell what the makers mean. vLLM leaves it out for the same reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from duo.errors import RequestError
from duo.sampling.params import SamplingParams

log = logging.getLogger("duo")

_CONFIG = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
"""Keys of generation_config.json. They are called as the fields of `SamplingParams`."""
_GGUF = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}  # fmt: skip
"""Keys below `general.sampling` in a GGUF file, and the fields of `SamplingParams`."""
_PENALISED = "general.sampling.penalty_last_n"
"""How many tokens llama.cpp penalises. Here it is all of them, but 0 means none."""


def of_config(config: Mapping[str, object], name: str) -> Mapping[str, float]:
    """The suggestions in generation_config.json. name: of the model, for the log."""
    found = {key: config[key] for key in _CONFIG if config.get(key) is not None}
    return _valid(found, "generation_config.json", name)


def of_gguf(value: Callable[[str], str | None], name: str) -> Mapping[str, float]:
    """The suggestions in a GGUF file. value: what its header says for a key, as text."""
    given = {field: value(f"general.sampling.{key}") for key, field in _GGUF.items()}
    if value(_PENALISED) == "0":
        given["repetition_penalty"] = None
    return _valid({field: _number(text) for field, text in given.items() if text is not None}, "GGUF file", name)


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _valid(given: Mapping[str, object], where: str, name: str) -> Mapping[str, float]:
    """Those that mean something. The others are named in the log."""
    found: dict[str, float] = {}
    for field, value in given.items():
        if field == "top_k" and value == -1:  # off, in the words of vLLM
            value = 0
        try:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError("it is not a number")
            number = int(value) if field == "top_k" else float(value)
            stated: dict[str, Any] = {field: number}
            SamplingParams(**stated)
        except (RequestError, ValueError, OverflowError):
            log.warning("%s of %s suggests %s %.60r, which means nothing: ignored", where, name, field, value)
            continue
        found[field] = number
    return found
