"""How many tokens of context memory holds: what is free, what a token takes, and how much of that is taken unasked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from duo.errors import ModelError

GIB = 1 << 30
SHARE = 0.75
"""Of the free memory, how much a context takes unless more is asked for. Passes over long contexts need some too."""
USUAL = 4096
"""Tokens of each slot that are taken at least, if memory holds them and the model was trained with so many."""
CLEARED = GIB
"""Bytes of a KV cache on a CPU that are taken unasked. llama.cpp clears all of it at loading, 0.6 s for a GiB."""
CELLS = 1 << 17
"""Tokens of all slots that are taken unasked. llama.cpp looks at every cell whenever rows are dropped, 1.3 ns each."""
DRAFT_CELLS = 1 << 15
"""The same for a draft model. A pass of a small one takes a millisecond, and it drops rows in each."""
STEP = 256
"""llama.cpp rounds contexts to multiples of it."""


class Fit(NamedTuple):
    """A context: tokens of each slot, bytes that all slots take together, and what it was limited by."""

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

    asked: tokens, 0 for a choice. trained: the model's own. per_token: bytes of one token. free: bytes that there are;
    None: unknown. weights: bytes of them that the system fills with the weights. It drops those where other things need
    the memory, and reads them from the file again. So they never forbid a context. copies: bytes of copies of recurrent
    states that are made in time, at most; nor do those. cleared and cells: bytes and tokens of all slots that are taken
    unasked at most. target: tokens that the target has, of a draft model beside it, which has no use for more; 0: there
    is none.
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
        beside, without = (_down(int(some * SHARE) // each) for some in (left, free))
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
    """Bytes, for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"


def attention_bytes(heads: Sequence[int], key: int, value: int, item: int = 2) -> int:
    """Bytes of keys and values of a token. `heads`: KV heads of each layer, 0 where it has no attention.

    key and value: numbers of a head. item: bytes of a number.
    """
    return sum(heads) * (key + value) * item


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, by the system and by its control group; None where nobody says.

    `root`: where proc and sys are mounted.
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
        # Elsewhere the system tells what there is, not what is free: others have half of it.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _of_group(root: Path) -> int | None:
    """The least that the process's control group, or one above it, still allows. Files in memory count as free."""
    least: int | None = None
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        most, used, file = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else ("memory.max", "memory.current", "inactive_file")
        )
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder != mount and mount not in folder.parents:
                break
            free = _of_folder(folder, most, used, file)
            least = free if least is None else least if free is None else min(least, free)
    return least


def _of_folder(folder: Path, most: str, used: str, file: str) -> int | None:
    try:
        limit = int((folder / most).read_text())
        taken = int((folder / used).read_text())
        words = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        taken -= next((int(word[1]) for word in words if word[0] == file), 0)
    except (OSError, ValueError, IndexError):  # no such group, or "max": no limit
        return None
    return max(0, limit - taken)
