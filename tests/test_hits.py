"""Hits on error tables worked out by hand."""

import numpy as np
import pytest

from diffclf.stats import Estimate, mean, proportion
from diffclf.workbook.hits import (
    above_chance,
    accuracy,
    bin_means,
    margin_ratio,
    margins,
    plateau,
    prefix_hits,
    repeat_agreement,
    single_trial_hits,
)

# Two images, two prompts, three trials.
ERRORS = np.array(
    [
        [[1.0, 5.0, 1.0], [2.0, 1.0, 2.0]],  # differences (first - second): -1, +4, -1; sums -1, 3, 2
        [[4.0, 1.0, 1.0], [3.0, 2.0, 3.0]],  # +1, -1, -2; sums 1, 0, -2
    ]
)
LABELS = np.array([0, 0])


def test_single_trials_are_judged_one_by_one():
    assert single_trial_hits(ERRORS, LABELS).tolist() == [[True, False, True], [False, True, True]]
    assert single_trial_hits(ERRORS, np.array([1, 0])).tolist() == [[False, True, False], [False, True, True]]


def test_prefixes_are_judged_by_their_means():
    # In a tie the first prompt wins.
    assert prefix_hits(ERRORS, LABELS, [1, 2, 3]).tolist() == [[True, False, False], [False, True, True]]
    assert prefix_hits(ERRORS, LABELS, [3]).tolist() == [[False], [True]]


def test_prefixes_equal_means_of_each_length():
    rng = np.random.default_rng(0)
    errors, labels = rng.random((20, 4, 9)).astype(np.float32), rng.integers(4, size=20)
    hits = prefix_hits(errors, labels, range(1, 10))
    for n in range(1, 10):
        assert (hits[:, n - 1] == (errors[:, :, :n].mean(axis=2).argmin(axis=1) == labels)).all()
    assert (hits[:, 0] == single_trial_hits(errors, labels)[:, 0]).all()


def test_missing_errors_and_budgets_out_of_range_are_refused():
    holes = ERRORS.copy()
    holes[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match="got NaN at image 1, trial 2"):
        single_trial_hits(holes, LABELS)
    assert prefix_hits(holes[:, :, :2], LABELS, [2]).shape == (2, 1)
    with pytest.raises(ValueError, match=r"budgets must lie in 1\.\.3, got 1\.\.4"):
        prefix_hits(ERRORS, LABELS, [1, 4])
    with pytest.raises(ValueError, match="got .* and 1 labels"):
        prefix_hits(ERRORS, LABELS[:1], [1])


def test_accuracy_is_wilson_for_independent_images_and_a_bootstrap_otherwise():
    hits = np.array([[True, True], [False, True], [True, False], [True, True]])
    assert accuracy(hits, groups=np.arange(4)) == [proportion(3, 4), proportion(3, 4)]
    assert accuracy(hits, level=0.9)[0] == proportion(3, 4, 0.9)
    groups = np.array([0, 0, 1, 1])
    assert accuracy(hits, groups=groups)[1] == mean(hits[:, 1], groups=groups)
    shares = hits.mean(axis=1, keepdims=True)
    assert accuracy(shares, groups=np.arange(4))[0] == mean(shares[:, 0])


def test_bins_average_neighbouring_timesteps_and_leave_out_empty_ones():
    hits = np.array([[True, False, True, True], [False, False, True, False]])
    centres, shares = bin_means(hits, np.array([900, 0, 100, 999]), n_bins=4, n_timesteps=1000)
    assert centres.tolist() == [50, 949.5]
    assert shares.tolist() == [[0.5, 1.0], [0.5, 0.0]]


def test_plateau_is_the_unbroken_run_around_the_peak():
    t = np.arange(7) * 100
    heights = np.array([0.9, 0.5, 0.92, 1.0, 0.91, 0.2, 0.95])
    assert plateau(t, heights, chance=0.1) == (300, 200, 400)
    assert plateau(t, heights, chance=0.1, share=0.95) == (300, 300, 300)
    assert plateau(t, np.ones(7), chance=0.1) == (0, 0, 600)
    # Of the height above chance, not above zero: 0.91 is 0.82 of the way from 0.5 to 1.
    assert plateau(t, heights, chance=0.5) == (300, 300, 300)


def test_above_chance_maps_chance_to_zero_and_the_peak_to_one():
    shares = above_chance([Estimate(0.2, 0.1, 0.4), Estimate(0.6, 0.5, 0.7, n=9)], chance=0.1)
    assert np.allclose([tuple(share) for share in shares], [(0.2, 0, 0.6), (1, 0.8, 1.2)])
    assert shares[1].n == 9
    assert np.isnan(above_chance([Estimate(0.1, 0, 0.2)], chance=0.1)[0].value)


def test_margin_is_the_others_mean_error_minus_the_right_one():
    errors = np.array([[[1.0, 2.0], [4.0, 1.0], [6.0, 0.0]]])
    assert margins(errors, np.array([0])).tolist() == [[4.0, -1.5]]
    assert margins(errors, np.array([2])).tolist() == [[-3.5, 1.5]]


def test_agreement_counts_pairs_of_repeats():
    # Three repeats name classes 0, 0, 1 and 1, 1, 1.
    errors = np.array([[[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    assert repeat_agreement(errors) == pytest.approx([1 / 3, 1])
    assert np.isnan(repeat_agreement(errors[:, :, :1])).all()


def test_margin_ratio_is_mean_over_spread_and_infinite_without_spread():
    assert margin_ratio(np.array([[1.0, 3.0], [2.0, 2.0]])) == pytest.approx(2 / 0.5**0.5)
    assert margin_ratio(np.full((3, 1), -2.0)) == -np.inf
