"""Files of recorded answers: a line of JSON for each answer. `python -m bench record` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duo.errors import FileError
from duo.program import jsonl
from lead.simulation.replay import Recorded


def write(path: Path, answers: Sequence[Recorded]) -> None:
    """Raises FileError."""
    lines = [
        {"prompt": a.prompt, "tokens": a.tokens, "guesses": [[[t, round(p, 4)] for t, p in g] for g in a.guesses]}
        for a in answers
    ]
    try:
        path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines), "utf-8")
    except OSError as error:
        raise FileError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def read(path: Path) -> list[Recorded]:
    """Raises FileError, which names the line."""
    return jsonl.read(path, _line, f"no answers in it; `python -m bench record --out {path}` records some")


def _line(fields: Any, where: str) -> Recorded:
    try:
        prompt, tokens = ([int(token) for token in fields[name]] for name in ("prompt", "tokens"))
        guesses = [[(int(token), float(chance)) for token, chance in ranked] for ranked in fields["guesses"]]
    except (ValueError, TypeError, KeyError):
        raise FileError(f"{where}: not a recorded answer; `python -m bench record` writes them") from None
    if not prompt or not tokens or len(tokens) != len(guesses) or not all(guesses):
        raise FileError(f"{where}: a recorded answer needs a prompt, and guesses for each of its tokens")
    return Recorded(prompt, tokens, guesses)
