"""What notebook 00 costs, and the timesteps of its error maps."""

import pytest

from diffclf.experiments.e00_start_here import evaluations, middle_half


@pytest.mark.parametrize(("n", "kept"), [(8, [2, 3, 4, 5]), (10, [2, 3, 4, 5, 6, 7]), (1, [0]), (3, [0, 1, 2])])
def test_the_middle_half_loses_a_quarter_at_both_ends(n, kept):
    assert middle_half(range(n)).tolist() == kept


def test_evaluations_by_hand():
    sizes = {"n_trials": 50, "n_slider": 20, "n_noises": 8}
    assert evaluations(sizes | {"n_classes": 10}) == 2 * 10 * 50 + 5 * 26 + 10 * 20 * 8 == 2730
    assert evaluations(sizes | {"n_classes": 3}) == 2 * 3 * 50 + 3 * 26 + 3 * 20 * 8
