"""The tokenizer that all tiny models share, so that any of them can draft for any other."""

from __future__ import annotations

from pathlib import Path

from duo.models.corpus import SMALL_TALK, SYSTEM
from duo.models.tokenizer import END, END_OF_TEXT, SPECIAL, learn, save

SIZE = 384
"""Tokens: the bytes, the special ones, and what is learned. Some architectures want a multiple of 16."""

PAD_ID, EOS_ID = SPECIAL.index(END_OF_TEXT), SPECIAL.index(END)


def write(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into the folder of a model."""
    save(learn([text for pair in SMALL_TALK for text in pair] + list(SYSTEM), SIZE), folder)
