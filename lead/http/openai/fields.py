"""Fields that all APIs for text share: how to sample, where to end, how many answers.

null means the default everywhere, because many clients send it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from duo.engines import Vocabulary
from duo.errors import RequestError
from duo.sampling.params import SEED_BITS, SamplingParams
from lead.answers.text import special_in
from lead.api import Question
from lead.http.defaults import SamplingDefaults
from lead.http.parsing import Cannot, ModelField, Options, short

MAX_CHOICES = 128
"""Most answers to one request. OpenAI has the same limit."""
MAX_STOPS = 32
MAX_STOP_LENGTH = 256
"""Characters."""
MAX_TOP_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 1 << 17
"""Most of them in one request. They are all written at once."""


_PARAMS = [param.name for param in fields(SamplingParams) if param.name != "grammar"]
"""Each of them is a field of `SamplingFields` too."""


def _stops(value: object) -> object:
    """Makes a list of one stop string. Leaves anything else for the type to judge."""
    return [value] if isinstance(value, str) and value else [] if value == "" else value


_Strings = Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]], Field(max_length=MAX_STOPS)]
_String = Annotated[str, Field(max_length=MAX_STOP_LENGTH)]
Stop = Annotated[_Strings, BeforeValidator(_stops, json_schema_input_type=_String | _Strings)]


_FORMS = (
    "response_format", "json_schema", "grammar", "structured_outputs",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar",
)  # fmt: skip


def other_forms(why: str) -> Cannot:
    """The fields with which other APIs and servers ask for an answer of some form. `why`: what to use instead.

    A request that knows one of them takes it.
    """
    return {name: ((None, "", {"type": "text"}), why) for name in _FORMS}


class StreamOptions(Options):
    """With `include_usage`, one more chunk at the end holds the usage."""

    include_usage: bool | None = None


class SamplingFields(ModelField):
    """How to pick tokens, and when to end."""

    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1, description="0 means the likeliest token.")
    top_k: int | None = Field(None, ge=-1, le=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, lt=1 << SEED_BITS, description="A negative seed means a random one.")
    max_tokens: int | None = Field(None, ge=-1, lt=1 << 31, description="-1 means no limit but the context.")
    n_predict: int | None = Field(
        None, ge=-1, lt=1 << 31, description="llama-server's name for `max_tokens`. It wins if both are given."
    )
    stop: Stop | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=1 << 31)]] | None = Field(
        None, max_length=MAX_STOPS, description="From vLLM: tokens that end the answer and are not a part of it."
    )
    presence_penalty: float | None = Field(None, ge=-100, le=100)
    frequency_penalty: float | None = Field(None, ge=-100, le=100)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    repeat_penalty: float | None = Field(None, gt=0, le=100)
    logit_bias: dict[str, float] | None = Field(None, description="What to add to the logits of tokens, by token id.")
    ignore_eos: bool | None = None

    cannot: ClassVar[Cannot] = {
        "stop_sequences": ((None, []), "it is called stop here"),
        "min_tokens": ((None, 0, 1), "use ignore_eos with max_tokens, or logit_bias"),
        "mirostat": ((None, 0, False), "use temperature, top_k, top_p and min_p"),
        "typical_p": ((None, 1), "use top_p or min_p"),
        "dynatemp_range": ((None, 0), "use temperature"),
        "xtc_probability": ((None, 0), "use top_k, top_p and min_p"),
        "dry_multiplier": ((None, 0), "use presence_penalty, frequency_penalty or repetition_penalty"),
    }
    limits: ClassVar[Sequence[str]] = ("n_predict", "max_tokens")
    """Fields that limit an answer's tokens. The first one that is given counts."""
    may_be_silent: ClassVar[bool] = False
    """Whether a limit of 0 is taken: it asks for the prompt alone. One token is made then, and not told."""

    def sampling(self, defaults: SamplingDefaults, grammar: str = "") -> SamplingParams:
        """`defaults` count where the request says nothing. Raises RequestError."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _PARAMS}
        if self.top_k == -1:  # other servers switch it off with -1
            given["top_k"] = 0
        given["repetition_penalty"] = self.repetition_penalty or self.repeat_penalty  # neither may be 0
        given["logit_bias"] = {_token_id(key): bias for key, bias in (self.logit_bias or {}).items()}
        given["seed"] = defaults.seed if self.seed is None else self.seed
        if given["seed"] is None or given["seed"] < 0:  # as with llama-server
            given["seed"] = secrets.randbits(63)
        stated = {name: value for name, value in given.items() if value is not None}
        return replace(defaults.params, **stated, grammar=grammar)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, fields: object) -> object:
        """Accepts 7.0 as an integer: some clients know only floating-point numbers."""
        if not isinstance(fields, dict):
            return fields
        whole = [name for name, field in cls.model_fields.items() if field.annotation == int | None]
        found = {name: fields[name] for name in whole if isinstance(fields.get(name), float)}
        return {**fields, **{name: int(value) for name, value in found.items() if value.is_integer()}}

    def ends(self, vocabulary: Vocabulary, defaults: SamplingDefaults) -> dict[str, Any]:
        """Where the answer ends, as fields of a `Question`. Slow: it tokenises stop strings. Raises RequestError."""
        limit = self.limit()
        return {
            "max_tokens": defaults.max_tokens if limit is None else limit,
            "ignore_eos": bool(self.ignore_eos),
            "stop": tuple(self.stop or ()),
            "stop_names": special_in(self.stop or (), vocabulary),
            "stop_tokens": tuple(self.stop_token_ids or ()),
        }

    def limit(self) -> int | None:
        """Most tokens to make; None means that the request sets no limit. Raises RequestError for a 0 that means
        nothing here."""
        name = self._limited_by
        tokens: int | None = getattr(self, name)
        if tokens != 0:
            return None if tokens == -1 else tokens
        if not self.may_be_silent:
            raise RequestError(f"{name} is 0: it must be at least 1, or -1 for no limit", name)
        return 1

    @property
    def no_answer(self) -> bool:
        """Whether the request wants no answer, only its prompt."""
        return self.may_be_silent and bool(getattr(self, self._limited_by) == 0)

    @property
    def _limited_by(self) -> str:
        return next((name for name in self.limits if getattr(self, name) is not None), self.limits[-1])


class AnswerFields(SamplingFields):
    """Sampling, and how to tell the answers."""

    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Number of answers. Their seeds are consecutive.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    accepted: bool | None = Field(None, description="Streamed chunks say which back guessed each piece of their text.")

    cannot: ClassVar[Cannot] = {
        **other_forms("use response_format with a json_schema"),
        "n_probs": ((None, 0), "use logprobs"),
    }

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def with_seed(question: Question, offset: int) -> Question:
    """The same question with another seed."""
    seed = (question.sampling.seed + offset) % (1 << SEED_BITS)
    return replace(question, sampling=replace(question.sampling, seed=seed)) if offset else question


def _token_id(key: str) -> int:
    # isdecimal alone accepts digits of other scripts. Nine digits are enough for any vocabulary.
    if not (key.isascii() and key.isdecimal() and len(key) <= 9):
        raise RequestError(f"logit_bias: {short(key)} is not a token id", "logit_bias")
    return int(key)
