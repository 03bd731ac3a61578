"""ggml's list of devices, through ctypes: llama-cpp-python has no interface to it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

from llama_cpp import llama_backend_init
from llama_cpp._ggml import libggml

_GPUS = (1, 2)
"""Values of ggml's enum ggml_backend_dev_type: a GPU, and a GPU that shares the CPU's memory."""


class Device(NamedTuple):
    """A device that ggml can run on. free: bytes of its memory."""

    name: str
    description: str
    gpu: bool
    free: int


def devices() -> Iterator[Device]:
    """All devices that llama.cpp could run on."""
    llama_backend_init()
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    words = libggml.ggml_backend_dev_name, libggml.ggml_backend_dev_description
    for word in words:
        word.restype, word.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    libggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_dev_memory.restype = None
    sizes = ctypes.POINTER(ctypes.c_size_t)
    libggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, sizes, sizes]
    for index in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name, description = (word(device).decode() for word in words)
        yield Device(name, description, libggml.ggml_backend_dev_type(device) in _GPUS, free.value)
