"""llama.cpp's C library: loading, its log, contexts, batches, saved states, and how a decode is given up."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from duo.engines import threads as threads_of
from duo.engines.base import InterruptedForwardError
from duo.engines.llamacpp import reasons
from duo.engines.options import GPU_ALL, GPU_AUTO, EngineOptions
from duo.errors import ContextError, ModelError

log = logging.getLogger("duo")

NO_ROOM = 1
"""llama_decode's code if it finds no free cells. It has changed nothing then."""
ABORTED = 2
ALL_LAYERS = 9999
"""More layers than any model has."""

State = NDArray[np.uint8]
"""Bytes of `save_state`."""
PARTIAL: int = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
ON_DEVICE: int = llama_cpp.LLAMA_STATE_SEQ_FLAGS_ON_DEVICE
"""The bytes stay in the device's memory. A sequence has one such copy at a time."""

seq_cp, seq_rm = llama_cpp.llama_memory_seq_cp, llama_cpp.llama_memory_seq_rm
"""Bound once, because decoding calls them often."""
_decode: Callable[[Any, Any], int] = llama_cpp.llama_decode


class Batch:
    """One llama_batch over arrays of ours, which every call fills again."""

    def __init__(self, rows: int) -> None:
        self._token = np.zeros(rows, dtype=np.int32)
        self._pos = np.zeros(rows, dtype=np.int32)
        self._seq = np.zeros(rows, dtype=np.int32)
        # If each row has one sequence, the counts and pointers never change.
        self._ones = np.ones(rows, dtype=np.int32)
        self._places = (self._seq.ctypes.data + self._seq.itemsize * np.arange(rows)).astype(np.uintp)
        # If rows have several, these are used instead.
        self._counts = np.zeros(rows, dtype=np.int32)
        self._starts = np.zeros(rows, dtype=np.uintp)
        self._flat = np.zeros(2 * rows, dtype=np.int32)
        self._wanted = np.ones(rows, dtype=np.int8)
        self._struct = cast("Any", llama_cpp.llama_batch())  # its fields are typed as arrays, and are pointers
        self._struct.token = self._token.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token))
        self._struct.embd = None
        self._struct.pos = self._pos.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos))
        self._struct.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._single = self._owners(self._ones, self._places)
        self._several = self._owners(self._counts, self._starts)

    def decode(
        self,
        llama: Any,
        tokens: list[int],
        places: list[int],
        owners: list[Sequence[int]],
        quiet: slice | list[int],
    ) -> int:
        """Decode tokens at the given places. Returns llama_decode's code.

        owners: the sequences of each token. quiet: indices of tokens whose logits nobody wants.
        """
        count = len(tokens)
        self._token[:count] = tokens
        self._pos[:count] = places
        if all(len(of) == 1 for of in owners):
            self._seq[:count] = [seq for (seq,) in owners]
            self._struct.n_seq_id, self._struct.seq_id = self._single
        else:
            flat = [seq for of in owners for seq in of]
            if len(flat) > len(self._flat):
                self._flat = np.zeros(2 * len(flat), dtype=np.int32)
            counts = [len(of) for of in owners]
            step, start = self._flat.itemsize, self._flat.ctypes.data
            self._flat[: len(flat)] = flat
            self._counts[:count] = counts
            self._starts[:count] = [start + step * before for before in accumulate(counts[:-1], initial=0)]
            self._struct.n_seq_id, self._struct.seq_id = self._several
        self._wanted[quiet] = 0
        self._struct.n_tokens = count
        code = _decode(llama, self._struct)
        self._wanted[quiet] = 1
        return code

    @staticmethod
    def _owners(counts: NDArray[np.int32], pointers: NDArray[np.uintp]) -> tuple[Any, Any]:
        return (
            counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(llama_cpp.llama_seq_id))),
        )


_errors: deque[str] = deque(maxlen=8)


def _remember(level: int, text: bytes | None, data: object) -> None:
    """Silence llama.cpp, which logs a hundred lines per model, but remember its errors."""
    if level == 4 and text:  # GGML_LOG_LEVEL_ERROR
        line = text.decode("utf-8", errors="replace").strip()
        _errors.append(line.partition(": ")[2] or line)  # llama.cpp begins with the name of a C++ function


_log: Any = llama_cpp.llama_log_callback(_remember)


def start() -> None:
    # At each load: importing other parts of llama_cpp sets a callback that prints.
    llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    _errors.clear()


def forget_errors() -> None:
    """Drop llama.cpp's errors so far. They do not explain a later failure."""
    _errors.clear()


def _said() -> list[str]:
    """llama.cpp's errors since they were last forgotten, for those who look closer (-v)."""
    said = [" ".join(error.split()) for error in _errors]
    _errors.clear()
    log.debug("llama.cpp: %s", "; ".join(said) or "no error was reported")
    return said


def check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}; check the path, or download the model") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); name a GGUF file") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file; convert the model, or download it in the GGUF format")


def check_kind(path: Path, model: Any) -> None:
    """Refuse models that do not generate text token by token."""
    if llama_cpp.llama_model_has_encoder(model) or not llama_cpp.llama_model_has_decoder(model):
        raise encoder_error(path)
    if llama_cpp.llama_model_is_diffusion(model):
        raise ModelError(f"{path.name} is a diffusion model; take one that generates token by token")


def metadata(model: Any, key: str) -> str | None:
    """A value of the file's header as text; None if it has no such key. Long texts are cut off."""
    buffer: Any = ctypes.create_string_buffer(256)
    if llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer)) < 0:
        return None
    return bytes(buffer.value).decode("utf-8", "replace")


def encoder_error(path: Path) -> ModelError:
    return ModelError(f"{path.name} is an encoder or embedding model; take one that generates text")


def gpu_layers(asked: int) -> int:
    """How many layers go to the GPU: `asked`, or none if llama.cpp sees no GPU."""
    if not llama_cpp.llama_supports_gpu_offload():
        return 0
    return ALL_LAYERS if asked in (GPU_AUTO, GPU_ALL) else asked


def load(path: Path, options: EngineOptions, progress: Callable[[float], None]) -> Any:
    raised: list[BaseException] = []
    done = 0.0

    def report(share: float, data: object) -> bool:
        nonlocal done
        try:
            # The rest is making the context. After it, the last report is 1.
            done = max(done, min(share, 0.99))
            progress(done)
        except BaseException as error:  # ctypes would print it and go on, but Ctrl-C must end the loading
            raised.append(error)
            return False
        return True

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    # Some virtual machines show AMX but do not let it be used. llama.cpp dies there without a message.
    params.use_extra_bufts = b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()
    callback = llama_cpp.llama_progress_callback(report)
    params.progress_callback = callback
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        if raised:
            raise raised[0]
        fewer = "; if the GPU's memory is too small, put fewer layers there with -ngl" if options.gpu_layers else ""
        raise ModelError(f"{path} cannot be loaded: {reasons.of_loading(_said())}{fewer}")
    return model


def make_context(
    path: Path,
    model: Any,
    options: EngineOptions,
    cells: int,
    batch: int,
    sequences: int,
    unified: bool = True,
    snapshots: int = 0,
) -> Any:
    """Make a context for `cells` KV cells, `batch` tokens per decode and `sequences` sequences.

    unified: every row attends over the cells of all sequences, most of them masked. Branches of a tree need that, for
    they share cells with their trunk. Otherwise each sequence has its own stream of cells. snapshots: states of earlier
    tokens that a recurrent model keeps for each sequence; llama.cpp takes 0 if the model cannot.
    Raises ModelError if memory does not suffice.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = cells  # llama.cpp rounds it up to a multiple of 256
    # llama.cpp aborts the process if there can be more sequences than rows in a batch, or than cells.
    params.n_batch = params.n_ubatch = max(batch, sequences)
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads(options)
    params.kv_unified = unified
    params.n_rs_seq = snapshots
    params.swa_full = True
    params.no_perf = True
    params.flash_attn_type = _flash_attention(options)
    _errors.clear()
    context = llama_cpp.llama_init_from_model(model, params)
    if context is None:
        _said()
        raise ModelError(
            f"{path.name} cannot run with {cells} tokens of memory; try a smaller context (-c) or fewer slots (-np)"
        )
    return context


def _flash_attention(options: EngineOptions) -> int:
    """On a CPU, `flash.choose` has already replaced `auto`."""
    if options.flash_attention == "on":
        return llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    if options.flash_attention == "auto" and options.gpu_layers:
        return llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
    return llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED


def threads(options: EngineOptions) -> int:
    """Threads of a decode."""
    return options.threads or threads_of.usual()


def free(context: Any, model: Any) -> None:
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


def state_bytes(context: Any, sequence: int) -> int:
    """Bytes of a copy of a sequence's memory."""
    return int(llama_cpp.llama_state_seq_get_size_ext(context, sequence, 0))


def save_state(context: Any, sequence: int, flags: int, into: State | None = None) -> State | None:
    """Copy a sequence's memory. With PARTIAL: only what is not in KV cells, that is the recurrent state.

    into: a buffer to use again if it fits. Returns None if llama.cpp cannot do it.
    """
    size = llama_cpp.llama_state_seq_get_size_ext(context, sequence, flags)
    if into is None or len(into) != size:
        into = np.empty(size, dtype=np.uint8)
    pointer = into.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    return into if llama_cpp.llama_state_seq_get_data_ext(context, pointer, size, sequence, flags) == size else None


def restore_state(context: Any, sequence: int, state: State, flags: int) -> bool:
    """Put back what `save_state` gave with the same flags. False: it failed, and the sequence has lost its memory."""
    pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    return bool(llama_cpp.llama_state_seq_set_data_ext(context, pointer, len(state), sequence, flags))


def refused() -> ContextError:
    """The error for a state that `restore_state` does not take."""
    _said()
    return ContextError("llama.cpp does not take this copy of a slot; it may be of another version")


class Stop:
    """Makes llama.cpp give up a decode. Between two operations of a graph, llama.cpp calls a function: stop or go on?

    A function in Python would need the interpreter each time, some thousand times per forward pass. So it is the C
    library's strlen. It measures a string that is empty until the decode must end.
    """

    def __init__(self, context: Any) -> None:
        libc = ctypes.CDLL(None) if os.name == "posix" else ctypes.CDLL("msvcrt")
        self._string = ctypes.create_string_buffer(2)
        self._asked = llama_cpp.ggml_abort_callback(ctypes.cast(libc.strlen, ctypes.c_void_p).value or 0)
        llama_cpp.llama_set_abort_callback(context, self._asked, ctypes.cast(self._string, ctypes.c_void_p))

    def set(self) -> None:
        self._string[0] = b"x"

    def clear(self) -> None:
        self._string[0] = b"\0"


def failed(code: int) -> InterruptedForwardError | ContextError | ModelError:
    """The error for a code of llama_decode."""
    if code == ABORTED:
        _errors.clear()  # it was asked to
        return InterruptedForwardError()
    if code == NO_ROOM:
        return ContextError("llama.cpp has no room left for these tokens; keep fewer rows or ask for a smaller context")
    _said()
    return ModelError(f"llama.cpp could not compute (code {code}); start again, with a smaller batch (-b) if it recurs")
