"""A vocabulary of bytes and a few special tokens, without a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from duo.engines.base import Variables
from duo.engines.chat.calls import Copies
from duo.engines.chat.template import ChatVocabulary


class ByteVocabulary(ChatVocabulary):
    """Each byte is a token. After them come the special tokens, of which the first ends an answer. `texts`: tokens that
    are text, as some vocabularies have marks."""

    def __init__(self, special: Sequence[str] = (), template: str = "", texts: Sequence[str] = ()) -> None:
        self._special = ["<eos>", *special]
        self._template = template
        self._words = [bytes([byte]) for byte in range(256)] + [b""] * len(self._special) + [t.encode() for t in texts]
        names = [name.encode() for name in self._special]
        self._meanings = [word or names[token - 256] for token, word in enumerate(self._words)]

    @property
    def size(self) -> int:
        return len(self._words)

    @cached_property
    def meanings(self) -> Sequence[bytes]:
        return self._meanings

    @property
    def eos(self) -> frozenset[int]:
        return frozenset({256})

    @property
    def chat_template(self) -> str:
        return self._template

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(self._words[token] for token in tokens).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return self._words[token]

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        names = sorted(map(re.escape, self._special), key=len, reverse=True)
        found: list[int] = []
        for part in re.split(f"({'|'.join(names)})", text):
            found += [256 + self._special.index(part)] if part in self._special else list(part.encode())
        return found

    def _apply(self, messages: Copies, tools: Copies | None, variables: Variables, begins: bool) -> str:
        raise NotImplementedError

    def named(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the names of special tokens."""
        return b"".join(self._meanings[token] for token in tokens if token not in self.eos).decode(errors="replace")
