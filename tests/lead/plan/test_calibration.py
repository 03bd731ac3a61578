"""What the claims of a back are worth."""

from __future__ import annotations

import random

import pytest

from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from lead.plan.calibration import Calibration
from lead.plan.tree import GuessTree


class TestCalibration:
    def test_a_new_back_is_believed(self) -> None:
        assert Calibration().chance(0.7) == 0.7

    @pytest.mark.parametrize("claim", [0.0, 5e-324])
    def test_a_claim_of_nothing_is_no_more_than_that(self, claim: float) -> None:
        """Whatever comes from the network."""
        calibration = Calibration()
        calibration.outcome(claim, hit=False)
        assert 0.0 <= calibration.chance(claim) <= claim
        calibration.outcome(claim, hit=True)
        assert 0.0 <= calibration.chance(claim) <= 1.0

    @pytest.mark.parametrize(("claim", "real"), [(0.9, 0.3), (0.3, 0.6), (1.0, 0.0)])
    def test_outcomes_count_more_than_claims(self, claim: float, real: float) -> None:
        calibration, rng = Calibration(), random.Random(0)
        for _ in range(400):
            calibration.outcome(claim, rng.random() < real)
        assert calibration.chance(claim) == pytest.approx(real, abs=0.1)

    def test_bands_are_separate(self) -> None:
        calibration = Calibration()
        for _ in range(100):
            calibration.outcome(0.99, False)
        assert calibration.chance(0.99) < 0.2
        assert calibration.chance(0.4) == 0.4

    def test_who_lies_is_soon_left_out(self) -> None:
        """In a tree: a liar claims all and is never right, an honest back is right as often as it says."""
        rng = random.Random(1)
        tree, prefix_hash = GuessTree(0, EMPTY), EMPTY
        for length in range(300):
            tree.merge(Expansion(length, prefix_hash, [1], [0.6]), "honest")
            tree.merge(Expansion(length, prefix_hash, [2], [1.0]), "liar")
            if length == 299:
                assert [node.token for node, _ in tree.best(1)] == [1]
            token = 1 if rng.random() < 0.6 else 3
            prefix_hash = extend_hash(prefix_hash, token)
            tree.advance(token, prefix_hash)
