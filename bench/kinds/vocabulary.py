"""The tokenizer of all tiny models. They share it, so any of them can draft for any other."""

from __future__ import annotations

from pathlib import Path

from duo.models.corpus import SMALL_TALK, SYSTEM
from duo.models.tokenizer import END, END_OF_TEXT, SPECIAL, learn, save

SIZE = 384
"""Tokens: the bytes, special ones, and learned ones. Some architectures need a multiple of 16."""

PAD_ID, EOS_ID = SPECIAL.index(END_OF_TEXT), SPECIAL.index(END)


def write(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json into the folder of a model."""
    save(learn([text for pair in SMALL_TALK for text in pair] + list(SYSTEM), SIZE), folder)
