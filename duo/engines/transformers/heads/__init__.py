"""Heads of the public formats, over a model of the transformers library. `load.py` tells them apart."""
