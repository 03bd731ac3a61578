"""Tiny random models of the architectures that people run, in the forms that both runtimes read.

All share one small vocabulary, so any of them can draft for any other. The weights are random, but of a size at which
text is neither noise nor one repeated token. So it means something if two texts are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.kinds import attention, delta, experts, mamba, rwkv
from bench.kinds.kind import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (*attention.KINDS, *experts.KINDS, *delta.KINDS, *mamba.KINDS, *rwkv.KINDS)
}


@dataclass(frozen=True)
class Made:
    """The files of a tiny model, with the same weights. None: that runtime does not know the kind."""

    kind: Kind
    folder: Path | None
    gguf: Path | None


def make(kind: str, folder: Path, seed: int = 0) -> Made:
    """Writes the tiny model of a kind into `folder`, as `NAME-SEED/` and `NAME-SEED.gguf`, unless it is there.

    Other seeds give other weights. It needs transformers and torch. Raises KeyError if there is no such kind.
    """
    row = KINDS[kind]
    checkpoint, out = folder / f"{kind}-{seed}", folder / f"{kind}-{seed}.gguf"
    made = Made(row, checkpoint if row.model_type else None, out if row.arch else None)
    if (made.gguf or checkpoint / "tokenizer_config.json").exists():
        return made
    # These take seconds to import, and listing the kinds does not need them.
    from bench.kinds import checkpoint as checkpoints
    from bench.kinds import gguf_file, vocabulary

    vocabulary.write(checkpoint)
    if row.shapes is not None:
        gguf_file.invent(row, checkpoint, seed, out)
    else:
        config = checkpoints.write(row, checkpoint, seed)
        if made.gguf:
            gguf_file.convert(row, checkpoint, config, out)
    return made
