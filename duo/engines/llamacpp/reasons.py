"""What llama.cpp's errors mean for the person who wanted to load a file. Its own words are for those who wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

_UPDATE = "update llama-cpp-python, or use another file of this model"
_MEANINGS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (
            r"unknown model architecture: '([^']*)'",
            f"it is a model of type {{0}}, which llama.cpp {{llama}} does not know; {_UPDATE}",
        ),
        (
            r"unknown pre-tokenizer type: '([^']*)'",
            f"llama.cpp {{llama}} does not know its tokenizer, {{0}}; {_UPDATE}",
        ),
        (
            r"allocate|out of memory|insufficient memory",
            "there is not enough memory for it; end other programs, or take a smaller or more strongly quantised file",
        ),
        (
            r"file bounds|corrupted|incomplete|read error|end of file|failed to read|failed to load model from file",
            "the file is damaged, or not whole; download it again",
        ),
        (
            r"(?:missing tensor|key not found in model:|invalid ggml type|unsupported.*version) *'?([^' ]*)",
            "the file is damaged, or of another format than llama.cpp {llama} reads; download it again, or update "
            "llama-cpp-python",
        ),
    )
)
_UNKNOWN = "llama.cpp {llama} cannot read it; download it again, or use another file of this model"


def of_loading(errors: Sequence[str]) -> str:
    """What was wrong and what to do, by what llama.cpp said while it loaded a file."""
    for error in errors:
        for pattern, meaning in _MEANINGS:
            if found := pattern.search(error):
                return meaning.format(*found.groups(), llama=_version())
    return _UNKNOWN.format(llama=_version())


def _version() -> str:
    """That of the package, which everybody can look up."""
    try:
        return f"({version('llama-cpp-python')})"
    except PackageNotFoundError:
        return "here"
