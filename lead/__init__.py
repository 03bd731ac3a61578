"""The lead: serves the target model over HTTP, verifies the guesses of the backs, tells them what became final."""

import os

# gRPC, which looks here when it is imported, has lines of its own to tell of every handshake that fails.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
