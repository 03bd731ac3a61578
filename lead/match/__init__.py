"""`python -m lead match`: which draft model fits a target, and what it would give."""
