"""Parsers for the values of flags. They raise argparse.ArgumentTypeError."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from duo.engines.options import GPU_ALL, GPU_AUTO
from duo.errors import RequestError
from duo.sampling.params import SEED_BITS, SamplingParams

Number = TypeVar("Number", int, float)

MAX_LAYERS = (1 << 31) - 1
"""llama.cpp stores the number of layers in 32 bits."""


def _number(parse: Callable[[str], Number], text: str, allowed: Callable[[Number], bool], what: str) -> Number:
    """Parse a number that is allowed. `what`: which ones are, for the error."""
    with contextlib.suppress(ValueError):
        if allowed(value := parse(text)):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _number(int, text, lambda value: value >= 1, "a whole number of at least 1")


def secret(text: str) -> str:
    """Parse a key or token: ASCII that fits into a header."""
    if not text.strip(" ,") or not all("!" <= character <= "~" for character in text.replace(" ", "")):
        raise argparse.ArgumentTypeError("a key or token is ASCII, more than spaces and commas, and has no line breaks")
    return text


def seconds(text: str) -> float:
    """Parse a number of seconds over 0."""
    return _number(float, text, lambda value: 0 < value < float("inf"), "a number of seconds over 0")


def minutes(text: str) -> float:
    """Parse a number of minutes over 0."""
    return _number(float, text, lambda value: 0 < value < float("inf"), "a number of minutes over 0")


def not_negative(text: str) -> float:
    """Parse a number of at least 0."""
    return _number(float, text, lambda value: 0 <= value < float("inf"), "a number of at least 0")


def count(text: str) -> int:
    """Parse a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def count_or_auto(text: str) -> int:
    """Parse a count. 0 lets the program choose, and so does -1, as in llama-server."""
    return 0 if text == "-1" else count(text)


AUTO = -2
"""A number that the program is to choose."""


def mib_or_auto(text: str) -> int:
    """Parse a number of MiB, -1 for no limit, or auto."""
    if text == "auto":
        return AUTO
    return _number(int, text, lambda value: value >= -1, "a number of MiB, -1 or auto")


def gpu_layers(text: str) -> int:
    """Parse a number of layers, or auto (-1) or all (-2), as in llama-server."""
    words = {"auto": GPU_AUTO, "-1": GPU_AUTO, "all": GPU_ALL, "-2": GPU_ALL}
    if text in words:
        return words[text]
    if not text.isdecimal() or int(text) > MAX_LAYERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of layers, auto or all")
    return int(text)


def probability(text: str) -> float:
    """Parse a number from 0 to 1."""
    return _number(float, text, lambda value: 0 <= value <= 1, "a probability (0 to 1)")


def sampling(name: str) -> Callable[[str], float]:
    """A parser for a field of `SamplingParams`."""

    def parse(text: str) -> float:
        whole = name == "top_k"
        value = _number(int, text, lambda _: True, "a whole number") if whole else _number(
            float, text, lambda _: True, "a number")  # fmt: skip
        value = 0 if whole and value == -1 else value  # other servers switch it off with -1
        stated: dict[str, Any] = {name: value}
        try:
            SamplingParams(**stated)
        except RequestError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return parse


def seed(text: str) -> int | None:
    """Parse a seed. A negative one means a random one each time, as in llama-server."""
    value = _number(int, text, lambda value: value < 1 << SEED_BITS, "a whole number of 64 bits")
    return None if value < 0 else value


def limit(text: str) -> int | None:
    """Parse a number of tokens. -1 means no limit, as in llama-server."""
    return None if text == "-1" else positive(text)


def port(text: str) -> int:
    """Parse a port. 0 lets the system choose one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def several(given: Sequence[str]) -> list[str]:
    """Split the values of a repeatable flag at commas, as llama-server does."""
    return [one.strip() for text in given for one in text.split(",") if one.strip()]


def in_url(host: str) -> str:
    """Put an IPv6 address in brackets, for use before a port."""
    return f"[{host}]" if ":" in host else host
