"""The entrants: their names on the command line, and labels for people."""

from __future__ import annotations

BASE, OURS = "none", "ours"

LABELS = {
    "none": "no back",
    "ours": "ours",
    "back-only": "ours, no draft model beside the target",
    "own-only": "ours, no back",
    "memory": "ours, memory alone",
    "chain": "plain asynchronous chain",
    "sync": "synchronous, both on the target's core",
    "sync-remote": "synchronous, draft on the other core",
    "llama-server": "llama.cpp's server with the draft",
    "llama-plain": "llama.cpp's server, no speculation",
    "ngram-simple": "llama.cpp's server, ngram-simple",
    "ngram-map-k": "llama.cpp's server, ngram-map-k",
    "ngram-mod": "llama.cpp's server, ngram-mod",
    "ngram-cache": "llama.cpp's server, ngram-cache",
    "assisted": "transformers' assisted generation, at its best",
    "assisted-plain": "transformers' assisted generation, as it comes",
    "prompt-lookup": "transformers' prompt lookup, at its best",
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
NGRAMS = ("ngram-simple", "ngram-map-k", "ngram-mod", "ngram-cache")
"""llama.cpp's kinds of speculation without a draft model."""
LLAMA_SERVERS = ("llama-server", "llama-plain", *NGRAMS)
PEERS = (*LLAMA_SERVERS, "assisted", "assisted-plain", "prompt-lookup")
"""Programs of other projects, on the target's core."""
WITHOUT_DRAFT = ("none", "ours", "memory", "both-cores", "llama-plain", *NGRAMS, "prompt-lookup")
"""Entrants that need no draft model. Ours then has memory alone."""
ONLY_ON = {
    **dict.fromkeys(LLAMA_SERVERS, "llamacpp"),
    "prompt-lookup": "transformers",
    "assisted": "transformers",
    "assisted-plain": "transformers",
    "assisted-both": "transformers",
}
"""The runtime of entrants that exist in one alone."""
