"""What a context of a GGUF model takes, by its header, and what memory has left for it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp

from duo.engines import memory
from duo.engines.gguf_files import metadata
from duo.engines.options import EngineOptions
from duo.errors import ModelError

_GPUS = (1, 2)
"""Of ggml's enum ggml_backend_dev_type: GPU, and one that shares the CPU's memory."""


def bytes_per_token(header: Mapping[str, Any], layers: int, embedding: int, heads: int, heads_kv: int) -> int:
    """Bytes that the keys and values of a token take in llama.cpp's memory, in 16 bits each, over all layers.

    header: what `gguf_files.metadata` found. The numbers are what llama.cpp says of the model.
    """
    given = header.get("attention.head_count_kv", heads_kv)
    # It may differ by layer, with 0 where a layer has no attention.
    counts = [int(count) for count in given] if isinstance(given, list) else [int(given) or heads] * layers
    if interval := int(header.get("full_attention_interval", 0)):
        counts = [count if (i + 1) % interval == 0 else 0 for i, count in enumerate(counts)]
    # The last layers may use the keys and values of earlier ones.
    counts = counts[: len(counts) - int(header.get("attention.shared_kv_layers", 0))]
    each = embedding // max(1, heads)
    key = max(int(header.get("attention.key_length", each)), int(header.get("attention.key_length_swa", 0)))
    value = max(int(header.get("attention.value_length", each)), int(header.get("attention.value_length_swa", 0)))
    if "attention.key_length_mla" in header:
        value = 0  # latent attention reads its values out of the keys
    return memory.attention_bytes(counts, key, value)


def choose(path: Path, model: Any, options: EngineOptions, cells: bool, before: int | None) -> memory.Fit:
    """The context of each slot.

    cells: whether the model has attention. before: bytes that were free before it was loaded. Its weights are counted
    from their size, for a file in memory passes as free there. Raises ModelError if memory holds less than is asked
    for.
    """
    name = path.name
    trained: int = llama_cpp.llama_model_n_ctx_train(model)
    if not trained:  # a recurrent model need not say; its memory does not grow with it
        trained = max(options.context, memory.USUAL)
    if options.context > trained:
        raise ModelError(
            f"{name} has a context of {trained} tokens and cannot run with {options.context}; ask for at most {trained}"
        )
    per_token = 0
    if cells:
        per_token = bytes_per_token(
            metadata(path),
            llama_cpp.llama_model_n_layer(model),
            llama_cpp.llama_model_n_embd(model),
            llama_cpp.llama_model_n_head(model),
            llama_cpp.llama_model_n_head_kv(model),
        )
    on_gpu = options.gpu_layers >= llama_cpp.llama_model_n_layer(model)
    free = gpu_memory() if on_gpu else None
    if free is not None:
        # A GPU clears its memory in no time.
        return memory.fit(name, options.context, trained, options.slots, per_token, free, None, memory.CELLS)
    free = None if before is None else before - llama_cpp.llama_model_size(model)
    return memory.fit(name, options.context, trained, options.slots, per_token, free, memory.CLEARED, memory.CELLS)


def gpu_memory() -> int | None:
    """Free bytes of all GPUs that llama.cpp sees, None where there is none. ggml is asked by ctypes, as it is not in
    llama-cpp-python's interface."""
    from llama_cpp._ggml import libggml

    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_dev_memory.restype = None
    libggml.ggml_backend_dev_memory.argtypes = [
        ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
    ]  # fmt: skip
    found: int | None = None
    for index in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(index)
        if libggml.ggml_backend_dev_type(device) in _GPUS:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            found = (found or 0) + free.value
    return found
