"""How answers are sampled if the request does not say: by the lead's flags, else by the model, else by the lead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from duo.sampling.params import SamplingParams

DEFAULT_TEMPERATURE = 0.8
"""The lead's own, where neither a flag nor the model's makers name one."""

Origin = Literal["flag", "model", "lead"]


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Values for a request that gives none.

    params: how to pick tokens. seed: None for a random one. max_tokens: None for no limit but the context. origins:
    where each value comes from, by its name.
    """

    params: SamplingParams = field(default_factory=lambda: SamplingParams(DEFAULT_TEMPERATURE))
    seed: int | None = None
    max_tokens: int | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def greedy(self) -> SamplingDefaults:
        """The same, with temperature 0."""
        return replace(self, params=replace(self.params, temperature=0.0))


@dataclass(frozen=True, slots=True)
class SamplingFlags:
    """What the lead's flags say. params: fields of `SamplingParams`; those that no flag names are left out."""

    params: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None


NAMES = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
"""Fields of `SamplingParams` that have a default."""


def sampling_defaults(flags: SamplingFlags, model: Mapping[str, float]) -> SamplingDefaults:
    """The defaults, by flags and by what the model's makers suggest."""
    values: dict[str, Any] = {"temperature": DEFAULT_TEMPERATURE, **model, **flags.params}
    origins: dict[str, Origin] = {
        name: "flag" if name in flags.params else "model" if name in model else "lead" for name in NAMES
    }
    origins["seed"] = "lead" if flags.seed is None else "flag"
    origins["max_tokens"] = "lead" if flags.max_tokens is None else "flag"
    return SamplingDefaults(SamplingParams(**values), flags.seed, flags.max_tokens, origins)
