"""What the engines for GGUF files share: the weights, a context over them, and the logits of a decode."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from duo.engines import memory, suggested
from duo.engines.base import Logits
from duo.engines.gguf_files import model_name
from duo.engines.llamacpp import context_size, native, recurrent
from duo.engines.llamacpp.vocabulary import LlamaCppVocabulary
from duo.engines.options import EngineOptions, FlashAttention
from duo.errors import ModelError

_get_logits: Any = llama_cpp.llama_get_logits
_addressof = ctypes.addressof


class Model:
    """The weights of a GGUF file, and the kind of memory that they need. They are freed if no engine adopts them.

    recurrent: some layers keep a state per sequence. states: what the states take, None if there are none. cells: some
    layers keep a KV cell per token. windowed: some of those see only the last tokens.
    """

    def __init__(self, path: Path, options: EngineOptions, progress: Callable[[float], None]) -> None:
        """Load the file. Raises ModelError with a line that says what is wrong."""
        native.check_file(path)
        native.start()
        self.path, self.name = path, options.name or model_name(path)
        before = memory.available()
        self.handle: Any = native.load(path, options, progress)
        self._free: weakref.finalize[..., Any] = weakref.finalize(self, llama_cpp.llama_model_free, self.handle)
        native.check_kind(path, self.handle)
        hybrid = bool(llama_cpp.llama_model_is_hybrid(self.handle))
        self.recurrent = hybrid or bool(llama_cpp.llama_model_is_recurrent(self.handle))
        self.cells = hybrid or not self.recurrent
        self.window: int = max(0, llama_cpp.llama_model_n_swa(self.handle))
        """Tokens that layers with a window see; 0 if there are none."""
        self.windowed = self.window > 0
        self.sampling = suggested.of_gguf(lambda key: native.metadata(self.handle, key), self.name)
        self.states = recurrent.find(path, self.handle, options) if self.recurrent else None
        self.fit = context_size.choose(self.path, self.handle, options, self.cells, before, self.states)
        self.trial_context: int | None = None
        """Tokens per slot of a trial engine."""
        self.flash: FlashAttention = options.flash_attention
        """Flash attention where nobody needs the same bits."""
        self.slower = (1.0, 1.0)
        """How many times as long one row, and several rows, take with the flash attention that the same bits need."""

    @property
    def context(self) -> int:
        """Tokens per slot."""
        return min(self.fit.context, self.trial_context or self.fit.context)

    def check_slots(self, slots: int, max_slots: int) -> None:
        """Raises ModelError if there are more slots than llama.cpp has sequences for."""
        if slots > max_slots:
            raise ModelError(f"llama.cpp can serve {self.path.name} in at most {max_slots} slots, not {slots}")

    def adopt(self, owner: object, context: Any) -> weakref.finalize[..., Any]:
        """Free the weights together with a context over them, at the latest when the owner is gone."""
        self._free.detach()
        return weakref.finalize(owner, native.free, context, self.handle)

    def take_back(self) -> None:
        """Own the weights again: the context over them is gone."""
        self._free = weakref.finalize(self, llama_cpp.llama_model_free, self.handle)


class Runtime:
    """A model with a context over it. `llama` and `memory` are llama.cpp's handles of the context and its memory."""

    runtime = "llamacpp"
    mixes = False

    def __init__(self, model: Model, options: EngineOptions, context: Any, batch: int, capacity: int) -> None:
        self._free = model.adopt(self, context)
        self.model = model
        self.options = options
        self.llama = context
        self.memory: Any = llama_cpp.llama_get_memory(context)
        if self.memory is None:
            raise native.encoder_error(model.path)
        self.name = model.name
        self.sampling = model.sampling
        self.context = model.context
        self.slots = options.slots
        self.context_note = model.fit.line(self.name, self.slots)
        """The part of the note that also holds without guesses."""
        self.batch = batch
        self.capacity = capacity
        self.neighbours = False
        self.spacing = 1
        self.recurrent = model.recurrent
        """Whether some layers keep a state."""
        self.flash = options.flash_attention == "on"
        """Whether flash attention was asked for, or found to be faster on a CPU."""
        self.slower = model.slower
        """How many times as long one row, and several rows, take as where nobody needs the same bits."""
        self.vocabulary = LlamaCppVocabulary(model.handle)
        self.size = self.vocabulary.size
        self._logits: Logits = np.empty((0, self.size), dtype=np.float32)
        self._output: Logits = self._logits  # llama.cpp's own buffer, valid while it stays at _output_address
        self._output_address = 0
        native.forget_errors()

    @property
    def note(self) -> str:
        return "; ".join(filter(None, (self.context_note, self._state_note)))

    @property
    def _state_note(self) -> str:
        """What recurrent layers take and can do; empty if there are none."""
        return ""

    @property
    def unsavable(self) -> str:
        return ""

    @property
    def layout(self) -> str:
        flash = "with" if self.flash else "without"
        return f"{type(self).__name__}, 16 bits, {flash} flash attention"

    def release(self) -> Model:
        """Free the context, to make another one over the same weights. The engine is not used afterwards."""
        self._free.detach()
        llama_cpp.llama_free(self.llama)
        self.model.take_back()
        return self.model

    def close(self) -> None:
        self._free()

    def _take_logits(self, count: int, places: Sequence[int] | None = None, total: int = 0) -> Logits:
        """Copy `count` rows of logits out of llama.cpp's buffer, which may move at any later call.

        places: where these rows belong among `total`; None: they are all rows.
        """
        rows = count if places is None else total
        if rows > len(self._logits):
            self._logits = np.empty((rows, self.size), dtype=np.float32)
        taken = self._logits[:rows]
        if count:
            pointer = _get_logits(self.llama)
            address = _addressof(pointer.contents)
            if address != self._output_address or count > len(self._output):
                self._output = np.ctypeslib.as_array(pointer, shape=(count, self.size))
                self._output_address = address
            if places is None:
                np.copyto(taken, self._output[:count])
            else:
                taken[places] = self._output[:count]
        return taken
