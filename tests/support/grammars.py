"""Answers under the grammar of a form, over a vocabulary of bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from duo.errors import DeadEndError
from duo.sampling.grammar import GrammarConstraint, Grammars
from lead.chat.conversation import Conversation, Tool
from lead.chat.forms import FORMS, Form, form_of
from lead.chat.grammar import grammar
from tests.support.bytes_vocabulary import ByteVocabulary
from tests.support.forms import TOOLS

ASKED = Conversation([], TOOLS, "required")


def vocabulary_of(form: str, special: bool) -> ByteVocabulary:
    """One in which the form's marks are special tokens, or text."""
    marks = FORMS[form].written if special else ()
    if form == "gpt-oss":
        marks = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")
    if form in ("deepseek-v3.2", "deepseek-v4") and special:
        marks = ("｜DSML｜", *FORMS[form].thinking)  # a part of each mark
    return ByteVocabulary(
        [mark for mark in marks if "\n" not in mark and mark != "<|call|>" and "analysis" not in mark]
    )


class Follower:
    """Writes answers under a grammar."""

    def __init__(self, form: str, special: bool, asked: Conversation = ASKED, prompt: str = "") -> None:
        self.vocabulary = vocabulary_of(form, special)
        self.form: Form = form_of(self.vocabulary, form)
        text = grammar(asked, self.form, prompt)
        self.constraint: GrammarConstraint = Grammars(self.vocabulary).constraint(text)

    def accepts(self, text: str) -> bool:
        """Whether this may be the whole answer."""
        tokens = self.vocabulary.encode_rendered(text)
        try:
            return 256 in self.constraint.allowed(tokens)
        except DeadEndError:
            return False

    def walk(self, seed: int, limit: int = 900) -> tuple[str, bool]:
        """A random answer, which mostly ends where it may. Whether it ended by itself."""
        dice = random.Random(seed)
        tokens: list[int] = []
        plain = set(b"abcxyz")
        while len(tokens) < limit:
            allowed = self.constraint.allowed(tokens).tolist()
            if 256 in allowed and (len(allowed) == 1 or dice.random() < 0.7):
                return self.vocabulary.named(tokens), True
            marks = [token for token in allowed if token > 256]
            likely = marks or [token for token in allowed if chr(token) in '"}])<`,|/\n']
            letters = [token for token in allowed if token in plain]
            choice = likely if likely and (dice.random() < 0.6 or not letters) else letters or allowed
            tokens.append(dice.choice([token for token in choice if token != 256] or allowed))
        return self.vocabulary.named(tokens), False


def calls_of(form: str, tools: Sequence[Tool]) -> str:
    return grammar(Conversation([], tools, "required"), FORMS[form])
