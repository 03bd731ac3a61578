"""The back: runs a draft model and keeps guessing ahead of the lead."""

from duo.program.environment import prepare

prepare()
