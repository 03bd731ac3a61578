"""The vocabulary and chat template inside a GGUF file, through llama.cpp's C interface."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from duo.engines.base import Variables
from duo.engines.chat.calls import Copies
from duo.engines.chat.template import ChatVocabulary
from duo.engines.llamacpp import native
from duo.engines.meaning import Meanings, meaning_of
from duo.errors import ModelError

_USER_DEFINED = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
_SPACE = "\u2581".encode()


class LlamaCppVocabulary(ChatVocabulary):
    """Implements `duo.engines.Vocabulary`, for any number of threads at a time. Valid while llama.cpp's `model` is
    loaded."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._vocab: Any = llama_cpp.llama_model_get_vocab(model)
        self._size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._texts: list[bytes | None] = [None] * self._size

    @property
    def size(self) -> int:
        return self._size

    @cached_property
    def meanings(self) -> Sequence[bytes]:
        # One buffer, and names bound once: a large vocabulary has 262,144 tokens.
        vocab, to_piece, size = self._vocab, llama_cpp.llama_token_to_piece, 4096
        buffer: Any = ctypes.create_string_buffer(size)
        spaced = llama_cpp.llama_vocab_type(vocab) == llama_cpp.LLAMA_VOCAB_TYPE_SPM

        def meaning(token: int) -> bytes:
            length = to_piece(vocab, token, buffer, size, 0, True)
            text = buffer.raw[:length] if length >= 0 else self._text(token)
            if spaced and _SPACE in text and llama_cpp.llama_vocab_get_attr(vocab, token) & _USER_DEFINED:
                text = text.replace(_SPACE, b" ")  # some converters keep the spelling of spaces
            return meaning_of(text)

        return [meaning(token) for token in range(self._size)]

    @cached_property
    def eos(self) -> frozenset[int]:
        # llama.cpp also counts tokens whose name is known for an end (of turn, of text), whatever the file says.
        return frozenset(t for t in range(self._size) if llama_cpp.llama_vocab_is_eog(self._vocab, t))

    @cached_property
    def chat_template(self) -> str:
        raw: bytes | None = llama_cpp.llama_model_chat_template(self._model, None)
        return raw.decode("utf-8", errors="replace") if raw else ""

    @cached_property
    def fim_tokens(self) -> Mapping[str, int]:
        roles = {
            "prefix": llama_cpp.llama_vocab_fim_pre, "suffix": llama_cpp.llama_vocab_fim_suf,
            "middle": llama_cpp.llama_vocab_fim_mid, "pad": llama_cpp.llama_vocab_fim_pad,
            "repository": llama_cpp.llama_vocab_fim_rep, "file": llama_cpp.llama_vocab_fim_sep,
        }  # fmt: skip
        return {role: token for role, of in roles.items() if (token := of(self._vocab)) >= 0}

    def decode(self, tokens: Sequence[int]) -> str:
        # Not llama_detokenize: for many byte-level vocabularies (such as GPT-2's) it drops spaces before punctuation.
        # That is not the model's text, and it takes back characters that were already streamed.
        text = b"".join([self.token_bytes(token) for token in tokens])
        if self._space_prefix and text.startswith(b" "):
            text = text[1:]
        return text.decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self._size:
            raise ValueError(f"token {token} is not in the vocabulary of {self._size}")
        text = self._texts[token]
        if text is None:
            # Each call has its own buffer, for several threads come here at a time.
            buffer = ctypes.create_string_buffer(256)
            length = self._to_piece(token, buffer)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = self._to_piece(token, buffer)
            text = self._texts[token] = buffer.raw[:length]
        return text

    def _apply(self, messages: Copies, tools: Copies | None, variables: Variables, begins: bool) -> str:
        template = self._beginning if begins else self._continuing
        return str(template(messages=messages, tools=tools, **variables).prompt)

    # Made late, for a draft model needs no template that works. The renderer fixes how its prompts end.
    @cached_property
    def _beginning(self) -> Any:
        return self._renderer(begins=True)

    @cached_property
    def _continuing(self) -> Any:
        return self._renderer(begins=False)

    def _renderer(self, begins: bool) -> Any:
        """The renderer of the file's chat template."""
        bos: int = llama_cpp.llama_vocab_bos(self._vocab)
        eos: int = llama_cpp.llama_vocab_eos(self._vocab)
        try:
            return Jinja2ChatFormatter(
                template=self.chat_template,
                bos_token=self._text(bos).decode("utf-8") if bos >= 0 else "",
                eos_token=self._text(eos).decode("utf-8") if eos >= 0 else "",
                add_generation_prompt=begins,
            )
        except Exception as error:  # a syntax error, or whatever a broken template makes jinja2 raise
            reason = " ".join(str(error).split())
            raise ModelError(f"the model's chat template cannot be read ({reason}); convert the model again") from error

    @cached_property
    def _space_prefix(self) -> bool:
        """Whether the tokenizer puts a space before a text's first word. Decoding then takes it off again."""
        buffer: Any = ctypes.create_string_buffer(8)
        key = b"tokenizer.ggml.add_space_prefix"
        if llama_cpp.llama_model_meta_val_str(self._model, key, buffer, len(buffer)) >= 0:
            return bytes(buffer.value) == b"true"
        return bool(llama_cpp.llama_vocab_type(self._vocab) == llama_cpp.LLAMA_VOCAB_TYPE_SPM)

    def _text(self, token: int) -> bytes:
        return llama_cpp.llama_vocab_get_text(self._vocab, token) or b""

    def _to_piece(self, token: int, buffer: Any) -> int:
        return int(llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False))

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        raw = text.encode("utf-8", errors="replace")
        size = len(raw) + 8
        while True:
            buffer = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), buffer, size, add_special, True)
            if count >= 0:
                return buffer[:count]
            size = -count


def meanings_in(path: Path) -> Meanings:
    """What the tokens of a GGUF file mean, from its header. No weights are loaded. Raises ModelError."""
    native.start()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelError(f"llama.cpp cannot read the vocabulary of {path}")
    try:
        return LlamaCppVocabulary(model).meanings
    finally:
        llama_cpp.llama_model_free(model)
