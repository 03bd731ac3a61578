"""The lead: serves the target model over HTTP, verifies the guesses of the backs, tells them what became final."""
