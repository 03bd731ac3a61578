"""What the flags say about slots and answers that are kept: in memory, and in files."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple

from duo.engines import Engine, memory, store
from duo.engines.conditions import versions
from duo.engines.exact.engine import ExactEngine
from duo.errors import FileError
from duo.program import models
from duo.program.answer_log import AnswerLog
from duo.program.values import AUTO
from lead.answers.slot_files import SlotFolder

log = logging.getLogger("lead")

MIB = 1 << 20
USUAL_MIB = 8192
"""Most MiB that are taken unless more are asked for. It is llama-server's default."""
FREE_SHARE = 0.25
"""Share of the free memory that is taken unless more is asked for."""


class Saving(NamedTuple):
    """cache_bytes: for prompts that left their slots. files: where slots are saved, if they are. answers: their log, if
    one is kept."""

    cache_bytes: int = 0
    files: SlotFolder | None = None
    answers: AnswerLog | None = None


NOTHING = Saving()


def check(args: argparse.Namespace) -> None:
    """Raises FileError if what is to be kept cannot be written."""
    folder = args.slot_save_path
    if args.log_answers:
        AnswerLog(Path(args.log_answers), "").close()
    if folder and not (Path(folder).is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
        raise FileError(f"--slot-save-path: {folder} is no folder that can be written to; make it first")


def of_flags(args: argparse.Namespace, engine: Engine) -> Saving:
    """What the flags ask for, with a loaded target."""
    cache_bytes = bytes_of(args.cache_ram, memory.available(), args.memory_shares)
    if engine.unsavable:
        asked = args.slot_save_path or args.cache_ram not in (AUTO, 0)
        if asked or cache_bytes:
            level = logging.WARNING if asked else logging.INFO
            log.log(level, "%s: slots cannot be saved: %s", engine.name, engine.unsavable)
        cache_bytes = 0
    elif cache_bytes:
        limit = "all memory" if cache_bytes == sys.maxsize else memory.size(cache_bytes)
        log.info("prompts that leave their slots are kept in %s (--cache-ram)", limit)
    answers = None
    if args.log_answers:
        answers = AnswerLog(Path(args.log_answers), engine.vocabulary.fingerprint)
        log.info("prompts and answers are written to %s (--log-answers)", args.log_answers)
    if not args.slot_save_path:
        return Saving(cache_bytes, None, answers)
    conditions = {
        "weights": models.identity(args, "target"),
        "vocabulary": engine.vocabulary.fingerprint,
        "runtime": f"{engine.runtime} {' '.join(each for each in versions(engine.runtime) if isinstance(each, str))}",
        "layout": engine.layout,
        "bits": _bits(args) if isinstance(engine, ExactEngine) else "",
    }
    return Saving(cache_bytes, SlotFolder(Path(args.slot_save_path), conditions), answers)


def bytes_of(mib: int, free: int | None, shares: int = 1) -> int:
    """Bytes for prompts that left their slots.

    mib: as in the flag. free: free bytes; None if unknown. shares: leads that divide what is taken unasked.
    """
    if mib == AUTO:
        return min(USUAL_MIB * MIB, int(FREE_SHARE * free)) // shares if free is not None else 0
    return sys.maxsize if mib == -1 else mib * MIB


def _bits(args: argparse.Namespace) -> str:
    """Identifies all that the bits of a slot depend on."""
    about = [*models.speed(args, "target"), *store.machine()]
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()
