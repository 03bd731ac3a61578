"""`python -m bench models`: makes tiny random models of many kinds, serves them, and compares with transformers."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from bench.harness.models import RUNTIMES, Runtime
from bench.kinds import KINDS, make
from bench.kinds.trial import Found, attempt
from duo.engines.base import UNBOUNDED, Rollback
from duo.engines.transformers.loading import quiet
from duo.errors import DuoError, ModelError
from duo.program.values import positive

COLUMNS = (
    "kind", "family", "runtime", "verifies", "largest error", "greedy text of `generate`", "text with drafts",
    "accepted, own drafts", "accepted, others", "read again for the next turn",
)  # fmt: skip


def trials(kind: str, runtimes: Sequence[Runtime], folder: Path, count: int) -> list[Found]:
    """Makes a kind, and tries it in each runtime that knows it."""
    model, other = make(kind, folder), make(kind, folder, seed=1)
    found: list[Found] = []
    for runtime in runtimes:
        ours, theirs = (made.folder if runtime == "transformers" else made.gguf for made in (model, other))
        if ours is not None and theirs is not None:
            with quiet():
                found.append(attempt(kind, runtime, ours, theirs, model.folder, count))
    return found


def cells(found: Found) -> list[str]:
    """A row of the table."""
    row = [found.kind, KINDS[found.kind].family, found.runtime]
    if found.refused or found.failed:
        why = f"refused: {found.refused}" if found.refused else f"failed: {found.failed}"
        return [*row, why, *[""] * (len(COLUMNS) - 4)]
    assert found.rollback is not None
    drafted = {name: text for name, text in found.same.items() if name != "generate"}
    different = [f"{name}: {text}" for name, text in drafted.items() if text != "same"]
    accepted = [f"{picked} of {verified}" for picked, verified in found.accepted.values()]
    text = "; ".join(different) or "same"
    return [
        *row, verifies(found.rollback), f"{found.error:.1e}", found.same["generate"] or "unknown there", text,
        *accepted, str(found.reread),
    ]  # fmt: skip


def verifies(rollback: Rollback) -> str:
    """What a model's memory allows, in words."""
    if not rollback.depth:
        return "nothing"
    shape = "trees" if rollback.trees else "chains"
    bound = "" if rollback.depth == UNBOUNDED else f" of {rollback.depth}"
    return f"{shape}{bound}{', by replay' if rollback.replay else ''}"


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("kinds", nargs="*", metavar="KIND", help=f"kinds to try (default: all of {', '.join(KINDS)})")
    p.add_argument("--runtime", choices=RUNTIMES, action="append", help="runtime to try (default: both)")
    p.add_argument("--tokens", type=positive, default=48, help="tokens of each answer")
    p.add_argument("--folder", type=Path, help="folder to keep the models in (default: they are deleted)")
    p.add_argument("--jobs", type=positive, default=min(2, os.cpu_count() or 1), help="kinds tried at a time")


def main(args: argparse.Namespace) -> int:
    if unknown := sorted(set(args.kinds) - set(KINDS)):
        raise ModelError(f"{unknown[0]} is not a kind that can be made here; `bench models --help` has a list")
    kinds: list[str] = args.kinds or list(KINDS)
    print("|".join(("", *(f" {column} " for column in COLUMNS), "")))
    print("|".join(("", *["---"] * len(COLUMNS), "")))
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as temporary:
        for each in _all(kinds, args.runtime or RUNTIMES, args.folder or Path(temporary), args.tokens, args.jobs):
            print("|".join(("", *(f" {cell} " for cell in cells(each)), "")), flush=True)
            found.append(each)
    refused = sum(bool(it.refused) for it in found)
    wrong = sum(not it.refused and not it.right for it in found)
    print(f"\n{len(kinds)} kinds, {len(found)} trials: {refused} refused, {wrong} wrong")
    return 1 if wrong else 0


def _all(kinds: Sequence[str], runtimes: Sequence[Runtime], folder: Path, count: int, jobs: int) -> Iterator[Found]:
    """Yields the trials in the order of the kinds."""
    if jobs == 1 or len(kinds) == 1:
        for kind in kinds:
            yield from trials(kind, runtimes, folder, count)
        return
    # Spawned, for torch and llama.cpp have threads, which do not survive a fork.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        under_way: list[Future[list[Found]]] = [pool.submit(trials, kind, runtimes, folder, count) for kind in kinds]
        for kind, each in zip(kinds, under_way, strict=True):
            try:
                yield from each.result()
            except BrokenProcessPool:
                # llama.cpp aborts the process if one of its assertions fails.
                raise DuoError(f"a process died that tried {kind} or a kind after it: try each with --jobs 1") from None
