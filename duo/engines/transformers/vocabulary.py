"""A Hugging Face tokenizer and its chat template as a Vocabulary."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from duo.engines.base import Variables
from duo.engines.chat.calls import Copies
from duo.engines.chat.template import ChatVocabulary
from duo.engines.meaning import Meanings, meaning_of
from duo.engines.transformers.loading import read_tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HFVocabulary(ChatVocabulary):
    """Implements `duo.engines.Vocabulary`, for any number of threads at a time."""

    def __init__(self, tokenizer: Any, size: int, eos: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        # Without the library's wrapper. It checks much, on a core that the target needs. It also changes settings while
        # another thread may be encoding, which fails.
        self._fast: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
        self._size = size
        self._eos = eos

    @property
    def size(self) -> int:
        return self._size

    @property
    def eos(self) -> frozenset[int]:
        return self._eos

    @cached_property
    def meanings(self) -> Sequence[bytes]:
        texts = self._texts
        # An added token has its own spelling even in a byte-level vocabulary.
        named = set(self._tokenizer.added_tokens_decoder) if self._alphabet is not None else self._special

        def meaning(id: int, text: bytes) -> bytes:
            return meaning_of(texts[id].encode() if id in texts and (id in named or not text) else text)

        return [meaning(id, text) for id, text in enumerate(self._bytes)]

    @property
    def chat_template(self) -> str:
        # If the tokenizer has several templates, transformers picks one.
        return str(self._tokenizer.get_chat_template()) if self._tokenizer.chat_template is not None else ""

    def decode(self, tokens: Sequence[int]) -> str:
        if self._fast is not None:
            return str(self._fast.decode(list(tokens), skip_special_tokens=True))
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self._size:
            raise ValueError(f"token {token} is not in the vocabulary of {self._size}")
        return self._bytes[token]

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        # What is no Unicode, such as half a surrogate pair, becomes a question mark, as in llama.cpp.
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        if self._fast is not None:
            # As a batch of one, so that other threads run meanwhile: megabytes take seconds.
            ids: list[int] = self._fast.encode_batch([text], add_special_tokens=add_special)[0].ids
            return ids
        # Not verbose: the engine refuses a text beyond the context, so the tokenizer need not warn.
        return [int(t) for t in self._tokenizer.encode(text, add_special_tokens=add_special, verbose=False)]

    def _apply(self, messages: Copies, tools: Copies | None, variables: Variables, begins: bool) -> str:
        # Without the library's wrapper, which takes away what is null. Some templates know calls by null content.
        given: Any = tools
        rendered: Any = render_jinja_template(
            conversations=[messages],
            tools=given,
            chat_template=self._tokenizer.get_chat_template(tools=tools),
            add_generation_prompt=begins,
            **{**self._tokenizer.special_tokens_map, **variables},
        )
        return str(rendered[0][0])

    @cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of every token, by id."""
        texts, special, alphabet = self._texts, self._special, self._alphabet
        spaced = bool(self._steps & {"Metaspace", "Replace", "ByteFallback"})

        def text_of(id: int) -> bytes:
            text = texts.get(id)
            if text is None or id in special:
                return b""
            if alphabet is not None:
                stands_for = [alphabet.get(letter) for letter in text]
                # An added token is spelled as it is.
                return text.encode() if None in stands_for else bytes(b for b in stands_for if b is not None)
            if spaced:
                byte = _BYTE.fullmatch(text)
                return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()
            return self.decode([id]).encode()

        return [text_of(id) for id in range(self._size)]

    @cached_property
    def _texts(self) -> dict[int, str]:
        """The vocabulary's spelling of every token, by id, such as 'Ġthe'."""
        return {id: text for text, id in self._tokenizer.get_vocab().items()}

    @cached_property
    def _special(self) -> set[int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return {*self._tokenizer.all_special_ids, *(id for id, token in added if token.special)}

    @cached_property
    def _steps(self) -> set[str]:
        decoder = self._fast.decoder if self._fast is not None else None
        return _steps(json.loads(decoder.__getstate__())) if decoder is not None else set()

    @property
    def _alphabet(self) -> dict[str, int] | None:
        """Letters that stand for bytes in a byte-level vocabulary; else None."""
        return _byte_alphabet() if "ByteLevel" in self._steps else None


def _steps(decoder: Mapping[str, Any]) -> set[str]:
    """The kinds of a decoder's steps."""
    return {decoder["type"]}.union(*(_steps(inner) for inner in decoder.get("decoders", ())))


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return {chr(byte) if byte in printable else chr(next(others)): byte for byte in range(256)}


def meanings_in(source: str, name: str) -> Meanings:
    """What the tokens of a model mean, from the files of its tokenizer. No weights are loaded. Raises ModelError."""
    tokenizer = read_tokenizer(source, name)
    size = 1 + max(tokenizer.get_vocab().values())
    return HFVocabulary(tokenizer, size, frozenset()).meanings
