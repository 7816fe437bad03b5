"""The shared trials of notebooks 02 to 04, and what is classified correctly from them."""

import pytest

from diffclf.trials import STRATEGIES, strategy_timesteps, uniform
from diffclf.workbook.strategies import bank_timesteps, n_strategy_timesteps, strategy_budgets, strategy_columns


def test_bank_is_uniform_then_the_distinct_fixed_timesteps_repeated():
    timesteps = bank_timesteps(100, 6)
    assert len(timesteps) == 100 + 6 * 21
    assert (timesteps[:100] == uniform(100)).all()
    fixed = timesteps[100:].reshape(6, 21)
    assert (fixed == fixed[0]).all()
    expected = {0, 500, 999, 475, 488, 512, 525, 100, 300, 700, 900, *range(50, 1000, 100)}
    assert set(fixed[0].tolist()) == expected and len(expected) == 21


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("n_timesteps", [1000, 100])
def test_columns_hold_the_timesteps_of_the_strategy_each_column_once(name, n_timesteps):
    timesteps = bank_timesteps(25, 4, n_timesteps)
    for budget in strategy_budgets(name, 25, 4):
        columns = strategy_columns(name, budget, 25, 4, n_timesteps)
        assert len(set(columns.tolist())) == len(columns) == budget
        if name == "Uniform":
            assert (timesteps[columns] == uniform(25, n_timesteps)[:budget]).all()
        else:
            assert (timesteps[columns] == strategy_timesteps(name, budget, n_timesteps)).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_fewer_trials_are_a_prefix(name):
    most = strategy_budgets(name, 30, 3)[-1]
    longest = strategy_columns(name, most, 30, 3)
    for n in range(1, most + 1):
        assert (strategy_columns(name, n, 30, 3) == longest[:n]).all()


def test_a_second_repeat_is_another_trial_of_the_same_timesteps():
    timesteps = bank_timesteps(10, 2)
    columns = strategy_columns("Even 5", 10, 10, 2)
    assert (timesteps[columns[:5]] == timesteps[columns[5:]]).all()
    assert not set(columns[:5].tolist()) & set(columns[5:].tolist())
    assert sorted(timesteps[columns[:5]].tolist()) == [100, 300, 500, 700, 900]


def test_budgets():
    assert [n_strategy_timesteps(name) for name in STRATEGIES] == [1, 3, 1, 1, 1, 5, 5, 10]
    assert strategy_budgets("475,500,525", 100, 3).tolist() == [5, 10, 15]
    assert strategy_budgets("Uniform", 10, 1).tolist() == [1, 2, 3, 5, 10]
    assert strategy_budgets("Uniform", 250, 1).tolist() == [1, 2, 3, 5, 10, 15, 25, 50, 75, 100, 150, 200, 250]
    assert strategy_budgets("Uniform", 1, 1).tolist() == [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strategy_columns("Odd 5", 5, 10, 1), "name must be one of Uniform, .*, got 'Odd 5'"),
        (lambda: strategy_columns("500", 3, 10, 2), r"n_trials of '500' must lie in 1\.\.2, got 3"),
        (lambda: strategy_columns("Uniform", 11, 10, 2), r"n_trials of 'Uniform' must lie in 1\.\.10, got 11"),
        (lambda: bank_timesteps(10, 0), "n_repeats must be at least 1, got 0"),
        (lambda: bank_timesteps(1001, 1), r"must lie in 1\.\.1000, got 1001"),
        (lambda: strategy_budgets("Uniform", 0, 1), "n_uniform must be at least 1, got 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
