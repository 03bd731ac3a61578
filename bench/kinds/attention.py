"""Kinds whose whole memory is keys and values."""

from __future__ import annotations

from bench.kinds.kind import Kind
from bench.kinds.steps import rotary_pairs

KINDS = (Kind("llama", "attention", "llama", arch="llama", steps=(rotary_pairs,)),)
