"""The lead: serves the target model over HTTP, verifies the guesses of the backs, tells them what became final."""

import os

# gRPC, which looks here when it is imported, has lines of its own to tell of every handshake that fails.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# OpenMP, which looks here when a runtime is loaded, lets threads spin while they wait for each other. If anything else
# runs on this machine, they take its core, and the thread that all wait for has none. Threads that sleep give it up.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
