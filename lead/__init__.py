"""The lead: serves the target model over HTTP, verifies the guesses of the backs, tells them what became final."""

from duo.program.environment import prepare

prepare()
