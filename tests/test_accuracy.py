"""Accuracies on error tables worked out by hand."""

import numpy as np
import pytest

from diffclf.experiments.accuracy import (
    accuracies,
    correct_by_budget,
    correct_by_trial,
    margins,
    plateau,
    repeat_agreement,
    share_above_chance,
)
from diffclf.stats import Estimate, mean, proportion

# Two images, two prompts, three trials.
ERRORS = np.array(
    [
        [[1.0, 5.0, 1.0], [2.0, 1.0, 2.0]],  # differences (first - second): -1, +4, -1; sums -1, 3, 2
        [[4.0, 1.0, 1.0], [3.0, 2.0, 3.0]],  # +1, -1, -2; sums 1, 0, -2
    ]
)
LABELS = np.array([0, 0])


def test_single_trials_are_judged_one_by_one_and_prefixes_by_their_means():
    assert correct_by_trial(ERRORS, LABELS).tolist() == [[True, False, True], [False, True, True]]
    assert correct_by_trial(ERRORS, np.array([1, 0])).tolist() == [[False, True, False], [False, True, True]]
    # In a tie the first prompt wins.
    assert correct_by_budget(ERRORS, LABELS, [1, 2, 3]).tolist() == [[True, False, False], [False, True, True]]
    assert correct_by_budget(ERRORS, LABELS, [3]).tolist() == [[False], [True]]


def test_missing_errors_and_budgets_out_of_range_are_refused():
    holes = ERRORS.copy()
    holes[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match="got NaN at image 1, trial 2"):
        correct_by_trial(holes, LABELS)
    assert correct_by_budget(holes[:, :, :2], LABELS, [2]).shape == (2, 1)
    with pytest.raises(ValueError, match=r"budgets must lie in 1\.\.3, got 1\.\.4"):
        correct_by_budget(ERRORS, LABELS, [1, 4])
    with pytest.raises(ValueError, match="got .* and 1 labels"):
        correct_by_budget(ERRORS, LABELS[:1], [1])


def test_accuracy_is_wilson_for_independent_images_and_a_bootstrap_otherwise():
    correct = np.array([[True, True], [False, True], [True, False], [True, True]])
    assert accuracies(correct, groups=np.arange(4)) == [proportion(3, 4), proportion(3, 4)]
    eight, groups = np.tile(correct, (4, 1)), np.arange(16) // 2
    assert accuracies(eight, groups=groups)[1] == mean(eight[:, 1], groups=groups)
    shares = eight.mean(axis=1, keepdims=True)
    assert accuracies(shares, groups=np.arange(16))[0] == mean(shares[:, 0])


def test_plateau_is_the_unbroken_run_around_the_peak():
    t = np.arange(7) * 100
    heights = np.array([0.9, 0.5, 0.92, 1.0, 0.91, 0.2, 0.95])
    assert plateau(t, heights, chance=0.1) == (300, 200, 400)
    assert plateau(t, np.ones(7), chance=0.1) == (0, 0, 600)
    # Of the height above chance, not above zero: 0.91 is 0.82 of the way from 0.5 to 1.
    assert plateau(t, heights, chance=0.5) == (300, 300, 300)


def test_share_above_chance_maps_chance_to_zero_and_the_peak_to_one():
    shares = share_above_chance([Estimate(0.2, 0.1, 0.4), Estimate(0.6, 0.5, 0.7, n=9)], chance=0.1)
    assert np.allclose([tuple(share) for share in shares], [(0.2, 0, 0.6), (1, 0.8, 1.2)])
    assert shares[1].n == 9
    assert np.isnan(share_above_chance([Estimate(0.1, 0, 0.2)], chance=0.1)[0].value)


def test_margin_is_the_others_mean_error_minus_the_right_one():
    errors = np.array([[[1.0, 2.0], [4.0, 1.0], [6.0, 0.0]]] * 2)
    assert margins(errors, np.array([0, 2])).tolist() == [[4.0, -1.5], [-3.5, 1.5]]


def test_agreement_counts_pairs_of_repeats():
    # Three repeats name classes 0, 0, 1 and 1, 1, 1.
    errors = np.array([[[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    assert repeat_agreement(errors) == pytest.approx([1 / 3, 1])
