"""Tiny random models of the architectures that people run, in the forms that both runtimes read.

All have one small vocabulary, so that any can draft for any. The weights are random but of a size at which text is
neither noise nor one token for ever, so that two texts that are the same mean something.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.kinds import attention, delta, experts, mamba
from bench.kinds.kind import Kind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*attention.KINDS, *experts.KINDS, *delta.KINDS, *mamba.KINDS)}


@dataclass(frozen=True)
class Made:
    """Where a tiny model lies. Both are the same weights. `gguf` is None where llama.cpp does not know the kind."""

    kind: Kind
    folder: Path
    gguf: Path | None


def make(kind: str, folder: Path, seed: int = 0) -> Made:
    """Write the tiny model of a kind into `folder`, as `NAME-SEED/` and `NAME-SEED.gguf`, unless it is there.

    Other seeds give other weights. Needs transformers and torch; raises KeyError if there is no such kind.
    """
    # They take seconds to import, and listing the kinds needs neither.
    from bench.kinds.checkpoint import write
    from bench.kinds.gguf_file import convert

    row = KINDS[kind]
    checkpoint, out = folder / f"{kind}-{seed}", folder / f"{kind}-{seed}.gguf"
    made = Made(row, checkpoint, out if row.arch else None)
    if not (made.gguf or checkpoint / "tokenizer_config.json").exists():
        config = write(row, checkpoint, seed)
        if made.gguf:
            convert(row, checkpoint, config, out)
    return made
