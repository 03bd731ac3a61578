"""What runs in the process of one model: a lead on loopback, started and ended by the lead that has the names.

Standard input brings the settings in its first line, and ends when the parent is gone: then this process ends as well.
Standard output carries reports to the parent, one JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from duo.errors import DuoError
from duo.program import run

OOM_SCORE = Path("/proc/self/oom_score_adj")
LOADING_SCORE = "500"
"""While a model loads that does not fit, its own process is the one to end, and not that of another model."""


def main() -> int:
    # Libraries may print. The parent reads only what is written here on purpose.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    args = argparse.Namespace(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    from lead.program import Ready, serve  # late: what it imports takes a while, and the parent may be gone by then

    usual = _sacrifice(LOADING_SCORE)

    def ready(told: Ready) -> None:
        _sacrifice(usual)
        print(json.dumps({"ready": asdict(told)}), file=reports)

    async def program() -> None:
        try:
            await serve(args, ready)
        except DuoError as error:
            print(json.dumps({"error": str(error)}), file=reports)
            raise

    return run.run(program, args.verbose)


def _sacrifice(score: str) -> str:
    """Set how readily Linux ends this process when memory is short. Returns the score of before."""
    try:
        before = OOM_SCORE.read_text()
        OOM_SCORE.write_text(score)
    except OSError:
        return score
    return before


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
