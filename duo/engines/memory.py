"""How many tokens of context memory holds, and how many are taken if nobody asks for a number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from duo.errors import ModelError

GIB = 1 << 30
FREE_SHARE = 0.75
"""Share of the free memory that a context takes unless more is asked for. Passes over long contexts need some too."""
USUAL = 4096
"""Each slot gets at least this many tokens, if memory holds them and the model was trained with them."""
CLEARED = GIB
"""Most bytes of a KV cache on a CPU unless more is asked for. llama.cpp clears all of it at loading: 0.6 s per GiB."""
CELLS = 1 << 17
"""Most tokens of all slots unless more is asked for. When rows are dropped, llama.cpp visits each cell for 1.3 ns."""
DRAFT_CELLS = 1 << 15
"""The same for a draft model. A pass of a small one takes a millisecond, and each pass drops rows."""
STEP = 256
"""llama.cpp rounds contexts to multiples of it."""


class Fit(NamedTuple):
    """A context: tokens of each slot, bytes of all slots, and what limits it."""

    context: int
    bytes: int
    limit: str

    def line(self, name: str, slots: int) -> str:
        """A line for the start of a program."""
        each = f"{slots} slots of {self.context:,} tokens" if slots > 1 else f"{self.context:,} tokens"
        return f"{name}: {each}, {self.limit}; keys and values take {size(self.bytes)}"


def fit(
    name: str,
    asked: int,
    trained: int,
    slots: int,
    per_token: int,
    free: int | None,
    weights: int = 0,
    copies: int = 0,
    cleared: int | None = None,
    cells: int | None = None,
    target: int = 0,
) -> Fit:
    """Choose the context of each slot.

    asked: tokens; 0 for a choice. trained: tokens that the model was made for. per_token: bytes of one token. free:
    free bytes; None if unknown.
    weights: free bytes that will hold the weights. The system may drop these and read them from the file again, so they
    never forbid a context. copies: most bytes of copies of recurrent states, made later; they forbid none either.
    cleared, cells: most bytes and tokens of all slots unless more is asked for. target: for a draft model, tokens of
    the target beside it, for more are of no use; 0 if there is none.
    Raises ModelError if memory does not hold keys and values even without the weights.
    """
    each = max(1, per_token) * slots
    free = None if free is None else max(0, free)
    if asked:
        if free is not None and per_token and asked * each > free:
            raise ModelError(
                f"{name} with a context of {asked} tokens in {slots} slots needs {size(asked * each)} for keys and "
                f"values, and {size(free)} are free: give a smaller -c or fewer slots (-np)"
            )
        limit = "as asked for"
        if free is not None and per_token and asked * each > free - weights - copies:
            limit += f", {_crowded(weights, copies, free)}: if it is slow, give a smaller -c or fewer slots (-np)"
        return Fit(asked, asked * per_token * slots, limit)
    if not per_token:
        return Fit(min(trained, target or trained), 0, "all that the model was made for")
    limits = [(trained, "all that the model was made for")]
    if free is None:
        limits.append((USUAL, "for it is not known how much memory is free"))
    else:
        left = max(0, free - weights - copies)
        beside, without = (_down(int(some * FREE_SHARE) // each) for some in (left, free))
        if beside < min(USUAL, without):
            limits.append((min(USUAL, without), _crowded(weights, copies, free)))
        else:
            limits.append((beside, f"for {size(left)} of memory are free"))
    if cleared is not None:
        limits.append((max(USUAL, _down(cleared // each)), "more would make loading slower (ask with -c)"))
    if cells is not None:
        limits.append((max(USUAL, _down(cells // slots)), "more would make each pass slower (ask with -c)"))
    if target:
        limits.append((target, "as many as the target has"))
    context, limit = min(limits, key=lambda one: one[0])
    if not context:
        raise ModelError(
            f"{name} has no room for a context in {slots} slots: {STEP} tokens need {size(STEP * each)} for keys and "
            f"values, and {size(free or 0)} are free; give fewer slots (-np) or a smaller model"
        )
    if context < trained:
        limit = f"of {trained:,} that it was made for, {limit}"
    return Fit(context, context * per_token * slots, limit)


def _crowded(weights: int, copies: int, free: int) -> str:
    states = " and copies of its states" if copies else ""
    return f"though its weights{states} take {size(weights + copies)} of the {size(free)} of memory that are free"


def _down(tokens: int) -> int:
    return tokens // STEP * STEP


def size(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"


def attention_bytes(heads: Sequence[int], key: int, value: int, item: int = 2) -> int:
    """Bytes of a token's keys and values. heads: KV heads of each layer; 0 if it has no attention.

    key, value: numbers per head. item: bytes of a number.
    """
    return sum(heads) * (key + value) * item


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, by the system and by its control group; None if unknown.

    root: where proc and sys are mounted.
    """
    found = [one for one in (_of_system(root), _of_group(root)) if one is not None]
    return min(found) if found else None


def _of_system(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        # Elsewhere the system says what there is, not what is free. Assume that half of it is.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _of_group(root: Path) -> int | None:
    """What the process's control group and those above it still allow; the smallest counts. Cached files are free."""
    smallest: int | None = None
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit, used, file = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else ("memory.max", "memory.current", "inactive_file")
        )
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder != mount and mount not in folder.parents:
                break
            free = _of_folder(folder, limit, used, file)
            smallest = free if smallest is None else smallest if free is None else min(smallest, free)
    return smallest


def _of_folder(folder: Path, limit: str, used: str, file: str) -> int | None:
    """The same for one folder. limit, used: its files with these numbers. file: the entry for cached files."""
    try:
        allowed = int((folder / limit).read_text())
        taken = int((folder / used).read_text())
        words = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        taken -= next((int(word[1]) for word in words if word[0] == file), 0)
    except (OSError, ValueError, IndexError):  # no such group, or "max": no limit
        return None
    return max(0, allowed - taken)
