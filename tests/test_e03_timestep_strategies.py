"""The trials that the eight timestep designs share, and what is classified correctly from them."""

import numpy as np
import pytest

from diffclf.experiments.e03_timestep_strategies import (
    DESIGNS,
    DesignErrors,
    SharedTrials,
    design_timesteps,
    evaluations,
    interpolate,
)
from diffclf.stats import paired_difference
from diffclf.trials import even, uniform

FIXED = {
    "0,500,1000": [0, 500, 999],
    "0": [0],
    "500": [500],
    "1000": [999],
    "475,500,525": [475, 488, 500, 512, 525],
    "Even 5": even(5).tolist(),
    "Even 10": even(10).tolist(),
}


def test_the_eight_designs_of_figure_4():
    assert list(DESIGNS) == ["Uniform", *FIXED]
    np.testing.assert_array_equal(design_timesteps("Uniform", 30), uniform(30))
    for name, timesteps in FIXED.items():
        once, many = (design_timesteps(name, n).tolist() for n in (len(timesteps), 30))
        assert sorted(once) == timesteps and many == once * (30 // len(once)), "every timestep once before any twice"
    assert design_timesteps("0,500,1000", 3, 100).tolist() == [0, 50, 99]
    for n in (5, 10):
        assert design_timesteps(f"Even {n}", n, 37).tolist() == uniform(n, 37).tolist()


def test_the_list_is_uniform_then_the_distinct_fixed_timesteps_repeated():
    trials = SharedTrials(100, 6).trial_list()
    assert len(trials) == 100 + 6 * 21 and (trials.noises == np.arange(len(trials))).all()
    assert (trials.timesteps[:100] == uniform(100)).all()
    fixed = trials.timesteps[100:].reshape(6, 21)
    assert (fixed == fixed[0]).all() and set(fixed[0]) == {t for timesteps in FIXED.values() for t in timesteps}


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("n_timesteps", [1000, 100])
def test_columns_hold_the_timesteps_of_the_design_each_column_once(name, n_timesteps):
    shared = SharedTrials(25, 4, n_timesteps)
    timesteps, longest = shared.trial_list().timesteps, shared.columns(name, shared.budgets(name)[-1])
    for budget in shared.budgets(name):
        columns = shared.columns(name, budget)
        assert len(set(columns.tolist())) == len(columns) == budget
        assert (columns == longest[:budget]).all(), "fewer trials are a prefix"
        expected = (
            uniform(25, n_timesteps)[:budget] if name == "Uniform" else design_timesteps(name, budget, n_timesteps)
        )
        assert (timesteps[columns] == expected).all()


def test_budgets():
    assert SharedTrials(100, 3).budgets("475,500,525").tolist() == [5, 10, 15]
    for n, budgets in {1: [1], 10: [1, 2, 3, 5, 10], 110: [1, 2, 3, 5, 10, 15, 25, 50, 75, 100, 110]}.items():
        assert SharedTrials(n, 1).budgets("Uniform").tolist() == budgets


def test_designs_are_judged_and_compared_on_their_own_columns():
    rng = np.random.default_rng(0)
    shared, labels, groups = SharedTrials(12, 2), rng.integers(3, size=40), np.arange(40) // 2
    errors = rng.random((40, 3, len(shared.trial_list())))
    errors[np.arange(40), labels, :12] -= 1  # only Uniform can tell the classes apart
    designs = DesignErrors(shared, errors, labels, groups)
    assert designs.correct("Uniform", [1, 12]).all() and designs.of("Even 5", 10).shape == (40, 3, 10)
    budgets, accuracy = designs.curve("500")
    right = errors[:, :, shared.columns("500", 2)].mean(axis=2).argmin(axis=1) == labels
    assert budgets.tolist() == [1, 2] and accuracy[1].value == pytest.approx(100 * right.mean())
    assert designs.compare("Uniform", "500", 2, 0.9) == 100 * paired_difference(np.ones(40), right, groups, level=0.9)


def test_interpolation_is_straight_over_the_logarithm():
    assert interpolate([[1, 10], [100, 30]], [1, 10, 100]) == pytest.approx([10, 20, 30])
    assert np.isnan(interpolate([[1, 10], [100, 30]], 101))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SharedTrials(10, 1).columns("Odd 5", 5), "design must be one of .*, got 'Odd 5'"),
        (lambda: SharedTrials(10, 2).columns("500", 3), r"n_trials of '500' must lie in 1\.\.2, got 3"),
        (lambda: SharedTrials(10, 2).columns("Uniform", 11), r"n_trials of 'Uniform' must lie in 1\.\.10, got 11"),
        (lambda: SharedTrials(10, 0), "n_repeats must be at least 1, got 0"),
        (lambda: SharedTrials(1001, 1), r"must lie in 1\.\.1000, got 1001"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_evaluations_by_hand():
    assert evaluations({"n_classes": 10, "n_images": 140, "n_repeats": 5}) == 10 * 140 * 5 * 21
