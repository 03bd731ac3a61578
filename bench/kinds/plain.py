"""Logits of both runtimes without our engines, to check the files of a kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from duo.engines.llamacpp import native
from duo.engines.transformers.loading import quiet
from duo.errors import ModelError

Logits = NDArray[np.float32]
"""Shape [tokens, vocabulary size]."""


def of_transformers(folder: Path, tokens: Sequence[int]) -> Logits:
    """One forward pass over the tokens, in float32."""
    loader: Any = AutoModelForCausalLM
    with quiet(), torch.inference_mode():
        model: Any = loader.from_pretrained(folder, dtype=torch.float32).eval()
        logits: Logits = model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    return logits


def of_llamacpp(path: Path, tokens: Sequence[int]) -> Logits:
    """One decode of the tokens, with keys and values in float32. Raises ModelError."""
    native.start()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    if model is None:
        raise ModelError(f"{path} cannot be loaded")
    count = len(tokens)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = count
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context: Any = llama_cpp.llama_init_from_model(model, params)
    try:
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        code = native.Batch(count).decode(context, list(tokens), list(range(count)), [[0]] * count, slice(0))
        if code:
            raise ModelError(f"llama.cpp failed with code {code} on {path}")
        logits: Logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(count, size)).copy()
        return logits
    finally:
        native.free(context, model)
