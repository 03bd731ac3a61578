"""Who competes: how each entrant is made, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.compare import llama_server
from bench.compare.entrant import Entrant, Setup
from bench.compare.names import (
    BAD_BACKS,
    BASE,
    BOUNDS,
    LABELS,
    LLAMA_SERVERS,
    NGRAMS,
    ONLY_ON,
    OURS,
    WITHOUT_DRAFT,
)
from bench.compare.others import AssistedGeneration, LlamaServerKind, LlamaServerSpeculation
from bench.compare.ours import LateBack, Layout, LeadEntrant, RandomBack, StoppedBack
from bench.compare.synchronous import InWorker, Synchronous, SynchronousRemote
from bench.compare.worker import WorkerProcess
from bench.harness.models import Runtime
from duo.errors import DuoError

PROCESS_BYTES = 0.6e9
"""Memory of a process beside the weights: the runtime, and the context."""


class UnknownEntrantError(DuoError):
    """No entrant has this name."""

    exit_code = 2


@dataclass(frozen=True)
class Parts:
    """What entrants are made of. worker: has both models. draft: the draft server; None without a draft model."""

    setup: Setup
    worker: WorkerProcess
    draft: WorkerProcess | None = None


LAYOUTS: dict[str, Layout] = {
    "none": Layout(back=False, flags=("--speculation", "none")),
    "ours": Layout(local_draft=True),
    "back-only": Layout(),
    "own-only": Layout(back=False, local_draft=True),
    "memory": Layout(back=False, flags=("--speculation", "memory")),
    "chain": Layout(flags=("--policy", "chain")),
    "both-cores": Layout(back=False, both_cores=True, flags=("--speculation", "none")),
}
"""Entrants that are our own programs."""


def _ngrams(kind: str, parts: Parts) -> Entrant:
    return LlamaServerKind(kind, parts.setup, parts.worker, kind)


MAKERS: dict[str, Callable[[Parts], Entrant]] = {
    "sync": lambda p: Synchronous("sync", p.worker),
    "sync-remote": lambda p: SynchronousRemote("sync-remote", p.worker, p.draft),
    "llama-server": lambda p: LlamaServerSpeculation("llama-server", p.setup, p.worker),
    "llama-plain": lambda p: LlamaServerKind("llama-plain", p.setup, p.worker),
    **{kind: partial(_ngrams, kind) for kind in NGRAMS},
    "assisted": lambda p: AssistedGeneration("assisted", p.setup, p.worker),
    "assisted-plain": lambda p: AssistedGeneration("assisted-plain", p.setup, p.worker, as_it_comes=True),
    "assisted-both": lambda p: AssistedGeneration("assisted-both", p.setup, p.worker, both_cores=True),
    "prompt-lookup": lambda p: AssistedGeneration("prompt-lookup", p.setup, p.worker, lookup=True),
    "free-best": lambda p: Synchronous("free-best", p.worker, for_free=True),
    "free-chain": lambda p: InWorker("free-chain", p.worker, "free", policy="chain"),
    "free-tree": lambda p: InWorker("free-tree", p.worker, "free", policy="tree"),
    "random-back": lambda p: RandomBack("random-back", p.setup),
    "late-back": lambda p: LateBack("late-back", p.setup),
    "stopped-back": lambda p: StoppedBack("stopped-back", p.setup),
}


def chosen(only: str | None, bad_backs: bool, runtime: Runtime, with_draft: bool = True) -> tuple[list[str], list[str]]:
    """Returns the names that compete, and a line about each one that is left out. with_draft: there is a draft model.

    The target alone always competes, because the others are measured by it. Raises UnknownEntrantError.
    """
    wanted = [name for name in LABELS if bad_backs or name not in BAD_BACKS]
    if only is not None:
        wanted = [name for name in (part.strip() for part in only.split(",")) if name]
        if strange := [name for name in wanted if name not in LABELS]:
            raise UnknownEntrantError(f"no schedule is called {strange[0]!r}: there are {', '.join(LABELS)}")
    there: list[str] = []
    left_out: list[str] = []
    for name in LABELS:
        if name not in wanted and name != BASE:
            continue
        if ONLY_ON.get(name, runtime) != runtime:
            if only is not None:
                left_out.append(f"{LABELS[name]} is left out: it does not run on {runtime}")
        elif not with_draft and name not in WITHOUT_DRAFT:
            if only is not None:
                left_out.append(f"{LABELS[name]} is left out: there is no draft model")
        elif name in LLAMA_SERVERS and llama_server.llama_server() is None:
            left_out.append(
                f"{LABELS[name]} is left out: there is no llama-server (python -m bench build-llama-server)"
            )
        else:
            there.append(name)
    return there, left_out


def make(names: Sequence[str], parts: Parts) -> list[Entrant]:
    """The entrants of these names, not started yet."""
    return [
        LeadEntrant(name, parts.setup, _layout(name, parts)) if name in LAYOUTS else MAKERS[name](parts)
        for name in names
    ]


def _layout(name: str, parts: Parts) -> Layout:
    """Without a draft model there is no back, and none beside the target."""
    layout = LAYOUTS[name]
    return layout if parts.setup.draft else layout._replace(back=False, local_draft=False)


def groups(names: Sequence[str], sizes: Mapping[str, float], memory: float) -> list[list[str]]:
    """Divides the names into groups, each of which fits into memory. If all fit, there is one group.

    Every group has ours and the target alone, because all others are compared with them. sizes: bytes of each.
    memory: bytes that may be used.
    """
    always = [name for name in names if name in (BASE, OURS)]
    made: list[list[str]] = []
    left = memory
    for name in names:
        if name in always:
            continue
        if not made or sizes[name] > left:
            made.append(list(always))
            left = memory - sum(sizes[n] for n in always)
        made[-1].append(name)
        left -= sizes[name]
    return made or [always]


def sizes(names: Sequence[str], target: Path, runtime: Runtime) -> dict[str, float]:
    """The memory of each entrant in bytes, roughly.

    Entrants in the worker share its models. llama.cpp maps its files, so all processes share them. transformers has
    float32 weights in each process.
    """
    with_processes = [name for name in names if name not in BOUNDS and not name.startswith("sync")]
    if runtime == "llamacpp":
        return {name: PROCESS_BYTES if name in with_processes else 0.0 for name in names}
    weights = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    return {name: PROCESS_BYTES + 2 * weights if name in with_processes else 0.0 for name in names}


def free_memory() -> float:
    """Bytes that may be used: most of the free memory."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 0.8 * 1024 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return float("inf")
