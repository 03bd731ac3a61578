"""Variables that libraries read when they are loaded. Those that are set stay as they are."""

from __future__ import annotations

import os


def prepare() -> None:
    """Must come before the libraries. So `lead` and `back` call it before they import anything else."""
    # gRPC has lines of its own to tell of every handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # OpenMP lets threads spin while they wait for each other. If anything else runs on this machine, they take its
    # core, and the thread that all wait for has none. Threads that sleep give it up.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
