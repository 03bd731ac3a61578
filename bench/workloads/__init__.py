"""Kinds of text that a comparison asks for. Some repeat much of what is there already, others nothing."""
