"""Values of flags, each from its text. They raise argparse.ArgumentTypeError."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from duo.engines.options import GPU_ALL, GPU_AUTO

MAX_LAYERS = (1 << 31) - 1
"""What llama.cpp's number of layers holds."""


def positive(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def secret(text: str) -> str:
    """For argparse: a key or token, as it fits into a header."""
    if not text.strip(" ,") or not all("!" <= character <= "~" for character in text.replace(" ", "")):
        raise argparse.ArgumentTypeError("a key or token is ASCII, more than spaces and commas, and has no line breaks")
    return text


def seconds(text: str) -> float:
    """For argparse: more than 0 seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds over 0")
    return value


def count(text: str) -> int:
    """For argparse: a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def count_or_auto(text: str) -> int:
    """For argparse: as `count`; 0 leaves it to the program, and so does -1, which is llama-server's word for that."""
    return 0 if text == "-1" else count(text)


def gpu_layers(text: str) -> int:
    """For argparse: how many layers, or llama-server's auto (also -1) and all (also -2)."""
    words = {"auto": GPU_AUTO, "-1": GPU_AUTO, "all": GPU_ALL, "-2": GPU_ALL}
    if text in words:
        return words[text]
    if not text.isdecimal() or int(text) > MAX_LAYERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of layers, auto or all")
    return int(text)


def probability(text: str) -> float:
    """For argparse: from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability (0 to 1)")
    return value


def port(text: str) -> int:
    """For argparse: a port; 0 lets the system choose one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def several(given: Sequence[str]) -> list[str]:
    """Of a flag that may be given again: several in one are separated by commas, as with llama-server."""
    return [one.strip() for text in given for one in text.split(",") if one.strip()]


def in_url(host: str) -> str:
    """The host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
