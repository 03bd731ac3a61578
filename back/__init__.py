"""The back: runs a draft model and keeps guessing ahead of the lead."""

import os

# gRPC, which looks here when it is imported, has lines of its own to tell of every handshake that fails.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
