"""Vocabularies with marks for code in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from duo.engines.transformers.vocabulary import HFVocabulary
from lead.api import ModelInfo
from tests.support.gguf_copies import copy
from tests.support.http import TEMPLATE, ScriptedAnswerer
from tests.support.tiny_gguf import TOKENS
from tests.support.tiny_transformers import make_tokenizer

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
CODELLAMA = ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")


class Filler(ScriptedAnswerer):
    """Scripted answers of a model that fills gaps."""

    @property
    def info(self) -> ModelInfo:
        return replace(super().info, vocabulary=filling())


@cache
def filling() -> HFVocabulary:
    """A vocabulary with Qwen's marks, and a chat template that loses nothing."""
    made = tokenizer_with(QWEN, special=False)
    made.chat_template = TEMPLATE
    return HFVocabulary(made, len(made), frozenset([made.eos_token_id]))


def tokenizer_with(marks: Sequence[str], special: bool = True, bos: bool = False) -> Any:
    """A byte-level tokenizer. special: as the marks are in most files; in Qwen's they are not."""
    made = make_tokenizer(bos=bos)
    made.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks], special_tokens=special)
    return made


def with_marks(marks: Sequence[str], special: bool = True, bos: bool = False) -> HFVocabulary:
    made = tokenizer_with(marks, special, bos)
    return HFVocabulary(made, len(made), frozenset([made.eos_token_id]))


def spaced_with_marks(marks: Sequence[str]) -> HFVocabulary:
    """A vocabulary that puts a space before the first word of a text, and BOS before that."""
    letters = [chr(code) for code in range(33, 127)]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    core = Tokenizer(models.BPE(vocab={name: id for id, name in enumerate(names)}, merges=[], byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(steps)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    maker: Any = transformers.PreTrainedTokenizerFast
    made = maker(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks], special_tokens=True)
    return HFVocabulary(made, len(made), frozenset([made.eos_token_id]))


def gguf_with(marks: Sequence[str], plain: Path, folder: Path) -> Path:
    """A copy of a tiny GGUF file, of `tests.support.tiny_gguf`, whose last tokens are the marks."""
    tokens = [*TOKENS[: len(TOKENS) - len(marks)], *marks]
    out = folder / "marks.gguf"
    copy(
        plain,
        out,
        changes={"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": TOKENS.index("<|im_start|>")},
    )
    return out
