"""Staged search: the released code's counts and choices, trial for trial."""

import json

import numpy as np
import pytest

from diffclf.errortable import prompt_scores
from diffclf.paths import data_dir
from diffclf.pruning import Exhaustive, Racing, Shortlist, Staged, run_stored
from diffclf.trials import TrialList, nested_positions, uniform

TABLE_6 = json.loads((data_dir() / "paper" / "tables.json").read_text())["table6_schedules"]
ROWS = {name: dict(zip(TABLE_6["columns"], row, strict=True)) for name, row in TABLE_6["rows"].items()}


def random_table(n_prompts, n_trials, seed=0):
    return np.random.default_rng(seed).random((n_prompts, n_trials)).astype(np.float32)


def counts(known):
    """Evaluations of each prompt."""
    return (~np.isnan(known)).sum(axis=1)


def naive_staged(table, n_timesteps, n_samples, to_keep):
    """The released selection, written down anew: table[prompt][timestep] -> the pairs in order, and the answer."""
    most = max(n_samples)
    t_to_eval = list(range(n_timesteps // most // 2, n_timesteps, n_timesteps // most))[:most]
    pairs, had, evaluated = [], {prompt: [] for prompt in range(len(table))}, set()
    remaining = list(range(len(table)))
    for n, keep in zip(n_samples, to_keep, strict=True):
        stage = t_to_eval[len(t_to_eval) // n // 2 :: len(t_to_eval) // n][:n]
        new = [t for t in stage if t not in evaluated]
        evaluated.update(new)
        for prompt in remaining:
            pairs += [(prompt, t) for t in new]
            had[prompt] += [table[prompt][t] for t in new]
        remaining = sorted(sorted(remaining, key=lambda prompt: np.mean(had[prompt], dtype=np.float64))[:keep])
    return pairs, remaining


def stages_of(strategy, errors):
    """Yield each mask that the strategy asks for."""
    known = np.full_like(errors, np.nan)
    while (mask := strategy.next(known)) is not None:
        known[mask] = errors[mask]
        yield mask


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("grid", ["official", "nested", "random"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_evaluations_are_the_true_counts_of_table_6(row, grid, repeats):
    n_classes, trials, keep = row["n_classes"], tuple(row["trials"]), tuple(row["keep"])
    expected = row["evaluations_of_released_code" if grid == "official" else "evaluations_of_algorithm_2"]
    strategy = Staged(trials, keep, grid, repeats)
    assert strategy.evaluations(n_classes) == repeats * expected
    known = run_stored(strategy, random_table(n_classes, repeats * trials[-1]))
    assert counts(known).sum() == repeats * expected
    once = np.isnan(known[:, : trials[-1]])
    np.testing.assert_array_equal(np.isnan(known), np.tile(once, repeats), "repeats follow after all timesteps")
    if grid != "official":
        assert (once[:, :-1] <= once[:, 1:]).all(), "each prompt has had a prefix of the trials"


SCHEDULES = [
    ((25, 250), (5, 1)),
    ((20, 50, 100, 500), (20, 10, 5, 1)),
    ((3, 7, 30), (4, 2, 1)),
    ((7, 300), (3, 1)),
    ((46, 47, 48, 92), (9, 6, 3, 1)),
    ((11,), (1,)),
]


@pytest.mark.parametrize(("trials", "keep"), SCHEDULES)
@pytest.mark.parametrize("n_timesteps", [1000, 1013])
def test_official_grid_is_the_released_code_trial_for_trial(trials, keep, n_timesteps):
    strategy = Staged(trials, keep)
    timesteps = strategy.trial_list(n_timesteps).timesteps
    assert len(set(timesteps.tolist())) == len(timesteps) == trials[-1]
    for seed in range(5):
        errors = random_table(13, len(timesteps), seed)
        by_timestep = [dict(zip(timesteps.tolist(), row, strict=True)) for row in errors]
        pairs, remaining = naive_staged(by_timestep, n_timesteps, trials, keep)
        asked = []
        for mask in stages_of(strategy, errors):
            asked += sorted((int(prompt), int(timesteps[i])) for prompt, i in np.argwhere(mask))
        assert asked == pairs
        assert [prompt_scores(run_stored(strategy, errors)).argmax()] == remaining
        assert len(pairs) == strategy.evaluations(13, n_timesteps)


def test_a_tie_keeps_the_earlier_prompt():
    assert counts(run_stored(Staged((2, 4), (1, 1)), np.ones((3, 4), dtype=np.float32))).tolist() == [4, 2, 2]


def test_a_stored_table_must_hold_every_entry_that_is_asked_for():
    errors = random_table(3, 4)
    errors[2, 1] = np.nan
    with pytest.raises(ValueError, match="must hold every entry"):
        run_stored(Exhaustive(4), errors)


def test_which_trials_a_strategy_can_be_run_on():
    for strategy in (Exhaustive(30, repeats=2), Staged((3, 30), (2, 1), "nested", repeats=2)):
        assert TrialList([*uniform(30), *uniform(30)]).starts_with(strategy.trial_list())
    raced = Racing(trials=500).trial_list()
    for strategy in (Racing(trials=40), Staged((8, 40), (3, 1), "random"), Shortlist(2, len, Racing(trials=40))):
        assert raced.starts_with(strategy.trial_list())
        assert not TrialList(raced.timesteps).starts_with(strategy.trial_list()), "each noise is another"
    for other in (Racing(trials=40, antithetic=False), Racing(trials=40, repeats=2), Racing(trials=40, seed=1)):
        assert not raced.starts_with(other.trial_list())
    twice, staged = Racing(trials=100, repeats=2), Staged((4, 100), (2, 1), "random", repeats=2)
    positions = np.floor(nested_positions(100) * 1000)
    np.testing.assert_array_equal(twice.trial_list().timesteps, np.repeat(positions, 2), "side by side")
    one_after_the_other = np.arange(200).reshape(100, 2).T.ravel()
    assert twice.trial_list()[one_after_the_other].starts_with(staged.trial_list())
