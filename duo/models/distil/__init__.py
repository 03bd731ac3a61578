"""`python -m duo.models.distil`: makes a small draft model for any target, from the target's own answers.

It is sequence-level and token-level distillation as in DistillSpec (arXiv 2310.08461): the text is the target's, and
the draft learns the target's probabilities at each place of it.
"""
