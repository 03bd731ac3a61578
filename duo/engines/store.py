"""Remembers on disk what was measured on this machine, for the next start."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PROCESSOR = (
    "vendor_id", "model name", "cpu family", "model", "stepping", "flags", "Features", "CPU implementer",
    "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip
"""Lines of /proc/cpuinfo that identify the processor. Several machines may share a cache folder."""
SWITCHES = ("ATEN_CPU_CAPABILITY", "MKL_", "DNNL_", "ONEDNN_", "GGML_")
"""Prefixes of environment variables that choose other kernels."""


def remembered(
    kind: str,
    about: Sequence[object],
    read: Callable[[object], T],
    measure: Callable[[], T],
    write: Callable[[T], object] = lambda found: found,
) -> T:
    """The earlier measurement under the same conditions, or a new one.

    kind: prefix of the file's name. about: all that the result depends on, beside the machine. read, write: convert
    from and to JSON's types; without `write` the result has these already. `read` raises ValueError, TypeError,
    KeyError or AttributeError for damaged data.
    """
    found = known(kind, about, read)
    if found is None:
        found = measure()
        remember(kind, about, write(found))
    return found


def known(kind: str, about: Sequence[object], read: Callable[[object], T]) -> T | None:
    """What `remember` was given under the same conditions; None if there is nothing that can be read."""
    try:
        return read(json.loads(_path(kind, about).read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def remember(kind: str, about: Sequence[object], found: object) -> None:
    """Write `found`, of JSON's types, for the next start."""
    path = _path(kind, about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(found))
        draft.replace(path)
    except OSError:
        pass  # a read-only home is no reason not to serve


def _path(kind: str, about: Sequence[object]) -> Path:
    switches = sorted(it for it in os.environ.items() if it[0].startswith(SWITCHES))
    key = hashlib.sha256(json.dumps([*machine(), switches, *map(str, about)]).encode()).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "duo" / f"{kind}-{key[:24]}.json"


@cache
def machine() -> Sequence[object]:
    """The processor, and the number of cores."""
    try:
        processor = processor_in(Path("/proc/cpuinfo").read_text())
    except OSError:
        processor = {}
    return [platform.machine(), platform.processor(), os.cpu_count(), processor]


def processor_in(text: str) -> Mapping[str, str]:
    """The lines of /proc/cpuinfo about the first processor that never change."""
    first, _, _ = text.partition("\n\n")
    words = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in words if name.strip() in PROCESSOR}
