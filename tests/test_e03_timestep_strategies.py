"""The trials that the eight timestep designs share, and what is classified correctly from them."""

import numpy as np
import pytest

from diffclf.experiments.e03_timestep_strategies import DesignErrors, SharedTrials, evaluations, interpolate
from diffclf.stats import paired_difference
from diffclf.trials import DESIGNS, design_timesteps, uniform


def test_the_list_is_uniform_then_the_distinct_fixed_timesteps_repeated():
    trials = SharedTrials(100, 6).trial_list()
    assert len(trials) == 100 + 6 * 21 and (trials.noises == np.arange(len(trials))).all()
    assert (trials.timesteps[:100] == uniform(100)).all()
    fixed = trials.timesteps[100:].reshape(6, 21)
    assert (fixed == fixed[0]).all()
    expected = {0, 500, 999, 475, 488, 512, 525, 100, 300, 700, 900, *range(50, 1000, 100)}
    assert set(fixed[0].tolist()) == expected and len(expected) == 21


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("n_timesteps", [1000, 100])
def test_columns_hold_the_timesteps_of_the_design_each_column_once(name, n_timesteps):
    shared = SharedTrials(25, 4, n_timesteps)
    timesteps, longest = shared.trial_list().timesteps, shared.columns(name, shared.budgets(name)[-1])
    for budget in shared.budgets(name):
        columns = shared.columns(name, budget)
        assert len(set(columns.tolist())) == len(columns) == budget
        assert (columns == longest[:budget]).all(), "fewer trials are a prefix"
        expected = uniform(25, n_timesteps)[:budget]
        if name != "Uniform":
            expected = design_timesteps(name, budget, n_timesteps)
        assert (timesteps[columns] == expected).all()


def test_budgets():
    assert SharedTrials(100, 3).budgets("475,500,525").tolist() == [5, 10, 15]
    assert SharedTrials(10, 1).budgets("Uniform").tolist() == [1, 2, 3, 5, 10]
    assert SharedTrials(250, 1).budgets("Uniform").tolist() == [1, 2, 3, 5, 10, 15, 25, 50, 75, 100, 150, 200, 250]
    assert SharedTrials(1, 1).budgets("Uniform").tolist() == [1]


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
    assert designs.compare("Uniform", "500", 2, 0.9) == 100 * paired_difference(np.ones(40), right, groups, 0.9)


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
        (lambda: SharedTrials(0, 1), r"must lie in 1\.\.1000, got 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_evaluations_by_hand():
    assert evaluations({"n_classes": 10, "n_images": 140, "n_repeats": 5}) == 10 * 140 * 5 * 21
