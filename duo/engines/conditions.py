"""What a measurement of a model depends on: its files, the runtime, the processor and the threads.

All of it is known before the model is loaded. So it is also known whether the model was measured before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from duo.engines import gguf_files
from duo.engines.options import EngineOptions

PACKAGES = {"llamacpp": ("llama-cpp-python",), "transformers": ("torch", "transformers")}
"""The packages of a runtime."""
MODEL_SUFFIXES = (".safetensors", ".json")
"""Files of a Hugging Face folder that define the model."""

SAMPLE, SAMPLES = 1 << 18, 16
"""Bytes of a part of a file that `fingerprint` reads, and into how many distances these parts divide the file."""

Stamp = tuple[str, int, int]
"""Identifies a file: its resolved path, its bytes, and its time of writing in nanoseconds."""


def conditions(model: str | None, runtime: str, options: EngineOptions) -> list[object]:
    """All that changes how fast a model is and which bits it gives. model: as for `duo.engines.load.load`."""
    ways = (options.gpu_layers, options.device, options.dtype, options.flash_attention)
    # Without files nothing can be remembered, so the time makes each call differ.
    files: Sequence[object] = stamps(model_files(model, runtime)) if model is not None else ()
    return [runtime, *(files or [time.time_ns()]), *versions(runtime), threads(runtime, options), *ways]


def model_files(model: str, runtime: str) -> list[Path]:
    """The files of a model: all parts of a GGUF, or a folder's weights and configuration. Empty if not on this disk."""
    path = Path(model).expanduser()
    if runtime == "llamacpp":
        return gguf_files.parts_of(gguf_files.locate(path))
    if path.is_dir():
        return [file for file in path.iterdir() if file.suffix in MODEL_SUFFIXES]
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return []
    return model_files(str(Path(config).parent), runtime) if isinstance(config, str) else []


def stamps(files: Iterable[Path]) -> list[Stamp]:
    found = []
    for file in sorted(files):
        try:
            state = file.stat()
        except OSError:
            continue  # loading it will report the error
        found.append((str(file.resolve()), state.st_size, state.st_mtime_ns))
    return found


def fingerprint(files: Iterable[Path]) -> str:
    """Identifies the content of a model's files, wherever they lie: SHA-256 over parts of each of them.

    Weights of two models differ nearly everywhere. So a few MiB of each file are enough.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            digest.update(f"{size}\n".encode())
            for begin in sorted({max(0, (size - SAMPLE) * part // SAMPLES) for part in range(SAMPLES + 1)}):
                opened.seek(begin)
                digest.update(opened.read(SAMPLE))
    return digest.hexdigest()


def versions(runtime: str) -> Sequence[object]:
    """Versions of the runtime's packages, and stamps of llama.cpp's libraries, which may be rebuilt."""
    found: list[object] = []
    for package in PACKAGES.get(runtime, ()):
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    spec = find_spec("llama_cpp") if runtime == "llamacpp" else None
    if spec is not None and spec.origin is not None:
        found += stamps((Path(spec.origin).parent / "lib").glob("*"))
    return found


def threads(runtime: str, options: EngineOptions) -> int:
    """How many threads compute. By default that follows from the cores that this process may use."""
    if options.threads:
        return options.threads
    if runtime == "llamacpp" and find_spec("llama_cpp"):
        from duo.engines.llamacpp import native

        return native.threads(options)
    if runtime == "transformers" and find_spec("torch"):
        import torch

        return torch.get_num_threads()
    return 0
