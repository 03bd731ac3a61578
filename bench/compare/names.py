"""The entrants: their names on the command line, and labels for people."""

from __future__ import annotations

BASE, OURS = "none", "ours"

LABELS = {
    "none": "no back",
    "ours": "ours",
    "back-only": "ours, no draft model beside the target",
    "own-only": "ours, no back",
    "chain": "plain asynchronous chain",
    "sync": "synchronous, both on the target's core",
    "sync-remote": "synchronous, draft on the other core",
    "llama-server": "llama.cpp's server with the draft",
    "assisted": "transformers' assisted generation, at its best",
    "assisted-plain": "transformers' assisted generation, as it comes",
    "both-cores": "no back, both cores for the target",
    "assisted-both": "assisted generation on both cores",
    "free-best": "bound: free chains at their best length",
    "free-chain": "bound: free chains, our planner",
    "free-tree": "bound: free trees, our planner",
    "random-back": "ours, back guesses at random",
    "late-back": "ours, back 300 ms late",
    "stopped-back": "ours, back stopped half the time",
}
"""In the order of loading."""

BOUNDS = ("free-best", "free-chain", "free-tree")
BAD_BACKS = ("random-back", "late-back", "stopped-back")
ONLY_ON = {
    "llama-server": "llamacpp",
    "assisted": "transformers",
    "assisted-plain": "transformers",
    "assisted-both": "transformers",
}
"""The runtime of entrants that exist in one alone."""
