"""What the engines for GGUF files have in common: the weights, a context over them, and the logits of a decode."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from duo.engines import memory
from duo.engines.base import Logits
from duo.engines.gguf_files import model_name
from duo.engines.llamacpp import context_size, native, recurrent
from duo.engines.llamacpp.vocabulary import LlamaCppVocabulary
from duo.engines.options import EngineOptions, FlashAttention
from duo.errors import ContextError, ModelError

_get_logits: Any = llama_cpp.llama_get_logits
_addressof = ctypes.addressof


class Model:
    """The weights of a GGUF file, and what kind of memory they need. They are freed if no engine adopts them.

    recurrent: there are layers whose memory is a state per sequence. states: what those take; None: there are none.
    cells: there are layers whose memory is a KV cell per token. windowed: some of those see only the last tokens.
    """

    def __init__(self, path: Path, options: EngineOptions, progress: Callable[[float], None]) -> None:
        """Load the file. Raises ModelError with a line that says what is wrong."""
        native.check_file(path)
        native.start()
        self.path = path
        before = memory.available()
        self.handle: Any = native.load(path, options, progress)
        self._free: weakref.finalize[..., Any] = weakref.finalize(self, llama_cpp.llama_model_free, self.handle)
        native.check_kind(path, self.handle)
        hybrid = bool(llama_cpp.llama_model_is_hybrid(self.handle))
        self.recurrent = hybrid or bool(llama_cpp.llama_model_is_recurrent(self.handle))
        self.cells = hybrid or not self.recurrent
        self.windowed = llama_cpp.llama_model_n_swa(self.handle) > 0
        self.states = recurrent.find(path, self.handle, options) if self.recurrent else None
        self.fit = context_size.choose(self.path, self.handle, options, self.cells, before, self.states)
        self.shortened: int | None = None
        """Tokens per slot, while something is tried."""
        self.flash: FlashAttention = options.flash_attention
        """Flash attention where nobody needs the same bits."""
        self.slower = (1.0, 1.0)
        """By what factor one row, and several, take longer with the flash attention chosen for the same bits."""

    @property
    def name(self) -> str:
        return model_name(self.path)

    @property
    def context(self) -> int:
        """Tokens per slot."""
        return min(self.fit.context, self.shortened or self.fit.context)

    def check_slots(self, slots: int, most: int) -> None:
        """Raises ModelError if there are more slots than llama.cpp has sequences for."""
        if slots > most:
            raise ModelError(f"llama.cpp can serve {self.path.name} in at most {most} slots, not {slots}")

    def adopt(self, owner: object, context: Any) -> weakref.finalize[..., Any]:
        """From now on the weights are freed together with a context over them, when the owner is gone at the latest."""
        self._free.detach()
        return weakref.finalize(owner, native.free, context, self.handle)

    def take_back(self) -> None:
        """The context over the weights is gone: they are this object's again."""
        self._free = weakref.finalize(self, llama_cpp.llama_model_free, self.handle)


class Runtime:
    """A model with a context. `_take_logits` copies what a decode has left in llama.cpp's buffer."""

    runtime = "llamacpp"
    _batch: int
    _capacity: int

    def __init__(self, model: Model, options: EngineOptions, context: Any) -> None:
        self._free = model.adopt(self, context)
        self._model = model
        self.options = options
        self._llama = context
        self._memory: Any = llama_cpp.llama_get_memory(context)
        if self._memory is None:
            raise native.encoder_error(model.path)
        self._name = model.name
        self._context = model.context
        self._fit_line = model.fit.line(model.name, options.slots)
        self._vocabulary = LlamaCppVocabulary(model.handle)
        self._size = self._vocabulary.size
        self._logits: Logits = np.empty((0, self._size), dtype=np.float32)
        self._output: Logits = self._logits  # llama.cpp's own buffer, valid while it stays at _output_address
        self._output_address = 0
        native.forget_errors()

    @property
    def name(self) -> str:
        return self._name

    @property
    def vocabulary(self) -> LlamaCppVocabulary:
        return self._vocabulary

    @property
    def context(self) -> int:
        return self._context

    @property
    def batch(self) -> int:
        return self._batch

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def neighbours(self) -> bool:
        return False

    @property
    def spacing(self) -> int:
        return 1

    @property
    def note(self) -> str:
        return "; ".join(filter(None, (self._fit_line, self._state_note)))

    @property
    def context_note(self) -> str:
        """Of the note, what holds without guesses too."""
        return self._fit_line

    @property
    def slower(self) -> tuple[float, float]:
        """By what factor one row, and several, take longer than where nobody needs the same bits."""
        return self._model.slower

    @property
    def _state_note(self) -> str:
        """What recurrent layers take and can do; empty where there are none."""
        return ""

    @property
    def recurrent(self) -> bool:
        """Whether there are layers whose memory is a state."""
        return self._model.recurrent

    @property
    def flash(self) -> bool:
        """Whether flash attention was asked for, or found to be faster on a CPU."""
        return self.options.flash_attention == "on"

    def release(self) -> Model:
        """Give up the context, for another over the same weights. The engine is not used afterwards."""
        self._free.detach()
        llama_cpp.llama_free(self._llama)
        self._model.take_back()
        return self._model

    def close(self) -> None:
        self._free()

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if not len(tokens) or not 0 <= min(tokens) <= max(tokens) < self._size:
            raise ValueError(f"a piece is empty, or has a token that is not in the vocabulary of {self._size}")

    def _check_length(self, length: int) -> None:
        if length > self._context:
            raise ContextError(f"{length} tokens do not fit the context of {self._context}")

    def _take_logits(self, count: int, places: Sequence[int] | None = None, total: int = 0) -> Logits:
        """Copy llama.cpp's logits into an array of ours: it may move its own at any later call.

        `places`: where those of the last decode belong among `total`; None: they are all there are.
        """
        rows = count if places is None else total
        if rows > len(self._logits):
            self._logits = np.empty((rows, self._size), dtype=np.float32)
        taken = self._logits[:rows]
        if count:
            pointer = _get_logits(self._llama)
            address = _addressof(pointer.contents)
            if address != self._output_address or count > len(self._output):
                self._output = np.ctypeslib.as_array(pointer, shape=(count, self._size))
                self._output_address = address
            if places is None:
                np.copyto(taken, self._output[:count])
            else:
                taken[places] = self._output[:count]
        return taken
