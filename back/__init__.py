"""The back: runs a draft model and keeps guessing ahead of the lead."""
