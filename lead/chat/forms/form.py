"""What a form of calls and thinking is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lead.chat.forms.found import Reader
from lead.chat.forms.rules import Writes


class Thinking(NamedTuple):
    """The marks around thinking."""

    open: str
    close: str


USUAL = Thinking("<think>", "</think>")
"""What most models have."""


@dataclass(frozen=True)
class Form:
    """How a model writes calls and thinking.

    name: as `--tool-format` has it.
    writes: the grammar of calls.
    blocks: what reads calls, by the mark that begins them.
    python: whether calls in Python's form need no mark.
    names: whether a call may be a name and JSON, without a mark.
    channels: the whole answer consists of messages in channels, as gpt-oss writes it.
    thinking: the marks around thinking. declared: the template or the vocabulary has them. Otherwise they are looked
        for only where the answer begins.
    marks: special tokens that must be a part of the text, with their names.
    """

    name: str
    writes: Writes
    blocks: Mapping[str, Reader] = field(default_factory=dict)
    python: bool = False
    names: bool = False
    channels: bool = False
    thinking: Thinking = USUAL
    declared: bool = False
    marks: Mapping[int, str] = field(default_factory=dict)
    ends: Sequence[str] = ()
    """Marks within calls and after them."""
    around: Sequence[str] = ()
    """Marks around text that is neither thinking nor a call. They are no part of it."""

    @property
    def written(self) -> Sequence[str]:
        """All marks of the form, be they special tokens or text."""
        return (*self.blocks, *self.ends, *self.around, *self.thinking)

    def thinking_open(self, prompt_text: str) -> bool:
        """Whether the prompt ends within thinking, so that the answer begins there."""
        return prompt_text.rstrip().endswith(self.thinking.open.rstrip())

    def thinking_done(self, prompt_text: str) -> bool:
        """Whether the prompt ends after thinking, so that the answer holds none."""
        return prompt_text.rstrip().endswith(self.thinking.close.rstrip())
