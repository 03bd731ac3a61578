"""duo: asynchronous lead/back speculative decoding."""

__version__ = "0.1.0"
