"""What llama.cpp's errors mean."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from duo.engines.llamacpp.reasons import of_loading


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (["error loading model: unknown model architecture: 'tomorrow'"], "a model of type tomorrow, which"),
        (["error loading model vocabulary: unknown pre-tokenizer type: 'new'"], "does not know its tokenizer, new"),
        (
            ["tensor 'blk.1.ffn_up.weight' data is not within the file bounds, model is corrupted or incomplete"],
            "the file is damaged, or not whole; download it again",
        ),
        (["unable to allocate CPU buffer", "error loading model"], "there is not enough memory for it"),
        (["error loading model: missing tensor 'blk.3.attn_q.weight'"], "the file is damaged, or of another format"),
        (["GGML_ASSERT(false) in {braces}"], "cannot read it; download it again"),
        ([], "cannot read it; download it again"),
    ],
)
def test_a_person_reads_what_to_do(errors: Sequence[str], words: str) -> None:
    said = of_loading(errors)
    assert words in said
    assert not any(word in said for word in ("tensor", "ggml", "GGML", "blk.", "{"))
