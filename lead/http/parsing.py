"""Reads the fields of a request from its body. An error is one line that names the field.

Unknown fields are taken, because clients send many, and named once in the log. A field that asks for what the lead
cannot do is refused: without it, another question would be answered. So is a name that is nearly one of ours, also
within `Options`. Messages, schemas and the like stay open.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from duo.errors import RequestError

log = logging.getLogger("lead.http")

Cannot = Mapping[str, tuple[Sequence[object], str]]
"""Fields that ask for what the lead cannot do: their harmless values, and what to say about any other value."""

TAG = "type="
"""How the tags of pydantic's unions begin. So no tag is the name of a field, and errors leave them out."""

MISSPELT = 0.85
"""How much of two names must be alike (`difflib`'s ratio) for one to be a misspelling of the other."""
_LOOKED_AT = 32
"""Unknown fields of a request that are looked at. Every one costs a comparison with all names."""
_LONGEST = 64
"""Characters of the longest name that is looked at."""
_NAMED = 256
"""Most unknown fields that the log names, in all requests."""


class Body(BaseModel):
    """A part of a request. It is strict: "0.7" is not a number."""

    model_config = ConfigDict(strict=True, extra="ignore")
    cannot: ClassVar[Cannot] = {}
    """Adds to what the classes above it cannot do. What one of them says of the same field counts no more."""
    vendors: ClassVar[Collection[str]] = ()
    """Fields that other servers of this API take. They are no misspellings of ours. Adds to those above it."""


class Options(Body):
    """A part of a request that holds options alone. Its unknown names are judged as those of the request."""


class ModelField(Body):
    """What every request may say."""

    model: Any = Field(None, description="Which model is asked, if the lead serves several. Otherwise it is ignored.")

    vendors: ClassVar[Collection[str]] = (
        "models",  # OpenRouter
        "parse_tool_calls", "generation_prompt",  # llama-server
        "mode", "chat_template_str", "repetition_penalty_range", "frequency_penalty_range",  # text-generation-webui
    )  # fmt: skip


Asked = TypeVar("Asked", bound=Body)


async def parse(shape: type[Asked], request: Request) -> Asked:
    """Reads a request's body, which must be a JSON object. Raises RequestError."""
    try:
        fields = from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object")
    names = names_of(shape)
    refuse(fields, names.cannot)
    _unknown.judge(fields, names)
    return checked(shape, fields)


@contextmanager
def own_names(grammar_of: str, messages: str = "messages") -> Iterator[None]:
    """Errors of the core name OpenAI's fields of chat. Here they get this API's names.

    grammar_of: in place of `response_format`. messages: in place of `messages`.
    """
    names = {"response_format": grammar_of, "messages": messages}
    try:
        yield
    except RequestError as error:
        if error.param not in names:
            raise
        raise RequestError(str(error), names[error.param]) from None


def checked(shape: type[Asked], fields: Mapping[str, object], where: str = "") -> Asked:
    """Makes the shape of its fields. `where`: its place in the request. Raises RequestError."""
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise _one_line(error, fields, where) from None


def refuse(fields: Mapping[str, object], cannot: Cannot, where: str = "") -> None:
    """Raises RequestError for the first field of `cannot` that has no harmless value."""
    for name, (harmless, why) in cannot.items():
        if name in fields and not _among(fields[name], harmless):
            raise RequestError(f"{where}{name} is {short(fields[name])}: {why}", where + name)


class Names(NamedTuple):
    """Names of fields that a shape knows, refuses, or leaves to other servers."""

    known: Sequence[str]
    cannot: Cannot
    vendors: Collection[str]
    options: Mapping[str, type[Options]]
    """Fields that hold options, and their shapes."""


@cache
def names_of(shape: type[Body]) -> Names:
    """With those of the classes above it. A field that the shape knows is not refused."""
    known = [field.alias or name for name, field in shape.model_fields.items()]
    classes = [base for base in reversed(shape.__mro__) if issubclass(base, Body)]
    cannot = {name: why for base in classes for name, why in base.cannot.items() if name not in known}
    options = {
        field.alias or name: part
        for name, field in shape.model_fields.items()
        for part in (field.annotation, *get_args(field.annotation))
        if isinstance(part, type) and issubclass(part, Options)
    }
    return Names(known, cannot, {name for base in classes for name in base.vendors}, options)


class _Unknown:
    """Judges fields that no shape knows."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def judge(self, fields: Mapping[str, object], names: Names, where: str = "") -> None:
        """Names them once in the log. Raises RequestError for one that is nearly a field of the shape.

        `where`: the place of these fields in the request.
        """
        unknown = [name for name in fields if name not in names.cannot and name not in names.known][:_LOOKED_AT]
        for name in unknown:
            near = len(name) <= _LONGEST and name not in names.vendors
            if near and (meant := difflib.get_close_matches(name, names.known, 1, MISSPELT)):
                raise RequestError(f"there is no field {short(where + name)}: did you mean {meant[0]}?", where + name)
            if where + name not in self._named and len(self._named) < _NAMED:
                self._named.add(where + name)
                known = "a request has a field that is not known here, and is answered without it: %s"
                log.info(known, short(where + name))
        for name, shape in names.options.items():
            if isinstance(inner := fields.get(name), dict):
                self.judge(inner, names_of(shape), f"{where}{name}.")


_unknown = _Unknown()


def short(value: object) -> str:
    """The value as JSON, short enough for an error line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _among(value: object, values: Sequence[object]) -> bool:
    # 0 is not False here, nor 1 True.
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def _place(fields: object, steps: Sequence[int | str], missing: bool) -> Iterator[int | str]:
    """Those of pydantic's steps that are a place in the request. `missing`: the last one is not there.

    Other steps name the member of a union, or what a validator made of a value.
    """
    value = fields
    for i, step in enumerate(steps):
        match value:
            case dict() if step in value:
                value = value[step]
            case list() if isinstance(step, int) and step < len(value):
                value = value[step]
            case _ if isinstance(step, int):
                value = None  # of a list that a validator made
            case _ if not (missing and i == len(steps) - 1):
                continue
        yield step


def _one_line(error: ValidationError, fields: Mapping[str, object], where: str) -> RequestError:
    """Pydantic's first finding, in the words of this project. `where`: the place of `fields`, which it looked at."""
    first: Any = error.errors(include_url=False)[0]
    steps = _place(fields, first["loc"], first["type"] == "missing")
    where += "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    where = where.lstrip(".")
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return RequestError(f"{where} is missing", where)
    if first["type"] == "value_error":
        return RequestError(f"{where}: {what}" if where else what, where or None)
    return RequestError(f"{where} is {short(first['input'])}: {what[:1].lower()}{what[1:]}", where)
