"""Pruning on made-up tables: the released code's counts and choices, trial for trial."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from diffclf.hierarchy import Hierarchical
from diffclf.paths import data_dir
from diffclf.pruning import Exhaustive, Staged, replay, takes_trials_of
from diffclf.racing import Racing
from diffclf.shortlist import Among, Shortlist
from diffclf.trials import antithetic_noises, uniform

TABLE_6 = json.loads((data_dir() / "paper" / "tables.json").read_text())["table6_schedules"]
ROWS = {name: dict(zip(TABLE_6["columns"], row, strict=True)) | {"name": name} for name, row in TABLE_6["rows"].items()}


def random_table(n_prompts, n_trials, seed=0):
    return np.random.default_rng(seed).random((n_prompts, n_trials)).astype(np.float32)


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


def steps_of(strategy, errors):
    """Each mask that the strategy asks for, checked not to ask for anything known."""
    known, masks = np.full_like(errors, np.nan), []
    while (mask := strategy.next(known)) is not None:
        assert mask.shape == errors.shape and mask.dtype == bool
        assert mask.any(), "a strategy that wants nothing must be done"
        assert np.isnan(known[mask]).all(), "an entry was asked for twice"
        known[mask] = errors[mask]
        masks.append(mask)
    return masks


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("grid", ["official", "nested"])
def test_evaluations_are_the_true_counts_of_table_6(row, grid):
    n_classes, trials, keep = row["n_classes"], tuple(row["trials"]), tuple(row["keep"])
    expected = row["evaluations_of_released_code" if grid == "official" else "evaluations_of_algorithm_2"]
    strategy = Staged(trials, keep, grid)
    assert strategy.evaluations(n_classes) == expected
    known = replay(strategy, random_table(n_classes, trials[-1]))
    assert (~np.isnan(known)).sum() == expected
    repeated = Staged(trials, keep, grid, repeats=3)
    assert repeated.evaluations(n_classes) == 3 * expected
    assert (~np.isnan(replay(repeated, random_table(n_classes, 3 * trials[-1])))).sum() == 3 * expected


SCHEDULES = [
    ((25, 250), (5, 1)),
    ((20, 50, 100, 500), (20, 10, 5, 1)),
    ((50, 100, 500, 1000), (12, 5, 5, 1)),
    ((3, 7, 30), (4, 2, 1)),
    ((2, 3, 4), (3, 2, 1)),
    ((7, 300), (3, 1)),
    ((46, 47, 48, 92), (9, 6, 3, 1)),
    ((11,), (1,)),
    ((1, 2), (1, 1)),
]


@pytest.mark.parametrize(("trials", "keep"), SCHEDULES)
@pytest.mark.parametrize("n_timesteps", [1000, 1013])
def test_official_grid_is_the_released_code_trial_for_trial(trials, keep, n_timesteps):
    strategy = Staged(trials, keep)
    timesteps = strategy.timesteps(n_timesteps)
    assert len(set(timesteps.tolist())) == len(timesteps) == trials[-1]
    for seed in range(5):
        errors = random_table(13, len(timesteps), seed)
        by_timestep = [dict(zip(timesteps.tolist(), row, strict=True)) for row in errors]
        pairs, remaining = naive_staged(by_timestep, n_timesteps, trials, keep)
        asked = []
        for mask in steps_of(strategy, errors):
            stage = [(int(p), int(timesteps[i])) for p, i in np.argwhere(mask)]
            asked += sorted(stage)
        assert asked == pairs
        known = replay(strategy, errors)
        counts = (~np.isnan(known)).sum(1)
        survivors = np.flatnonzero(counts == counts.max())
        winner = survivors[np.nanmean(known[survivors].astype(np.float64), axis=1).argmin()]
        assert [winner] == remaining
        assert len(pairs) == strategy.evaluations(13, n_timesteps)


def test_timesteps_that_do_not_divide_the_models_start_at_half_a_step():
    """1000 // 300 = 3, so the released grid starts at 1 and ends at 898; it does not reach the end."""
    assert np.sort(Staged((7, 300), (3, 1)).timesteps()).tolist() == list(range(1, 900, 3))
    np.testing.assert_array_equal(np.sort(Staged((7, 300), (3, 1), "nested").timesteps()), np.sort(uniform(300)))


@pytest.mark.parametrize(("trials", "keep"), SCHEDULES)
def test_nested_grid_spends_what_algorithm_2_says(trials, keep):
    n_prompts = 13
    alive = [n_prompts, *keep[:-1]]
    expected = sum(
        n * (now - before) for n, now, before in zip(np.minimum(alive, 13), trials, (0, *trials), strict=False)
    )
    strategy = Staged(trials, keep, "nested")
    assert strategy.evaluations(n_prompts) == expected
    known = replay(strategy, random_table(n_prompts, trials[-1]))
    assert (~np.isnan(known)).sum() == expected
    np.testing.assert_array_equal(strategy.timesteps(), uniform(trials[-1]))


@pytest.mark.parametrize("grid", ["official", "nested"])
def test_a_stage_ranks_by_the_mean_over_all_trials_so_far(grid):
    """Prompt 0 wins the first stage's trials, prompt 1 the new ones of the second, and by more."""
    strategy = Staged((2, 4, 8), (2, 1, 1), grid)
    first, second = (set(stage.tolist()) for stage in strategy.stages()[:2])
    errors = np.full((3, 8), 0.5, dtype=np.float32)
    errors[0, list(first)], errors[1, list(first)] = 0.1, 0.2
    errors[0, list(second - first)], errors[1, list(second - first)] = 0.9, 0.3
    counts = (~np.isnan(replay(strategy, errors))).sum(1)
    assert counts.argmax() == 1 and counts[1] == 8
    assert counts[2] == 2 and counts[0] == len(first | second)


@pytest.mark.parametrize("grid", ["official", "nested"])
def test_nothing_pruned_is_exhaustive(grid):
    errors = random_table(6, 40)
    whole = replay(Staged((10, 40), (6, 1), grid), errors)
    assert not np.isnan(whole).any()
    np.testing.assert_array_equal(whole, errors)
    assert Staged((10, 40), (6, 1), grid).evaluations(6) == Exhaustive(40).evaluations(6) == 240
    assert Staged((10, 40), (9, 1), grid).evaluations(6) == 240, "keeping more than there are keeps all"


@pytest.mark.parametrize(
    "strategy", [Exhaustive(12), Exhaustive(6, 2), Staged((3, 12), (2, 1)), Staged((3, 12), (2, 1), "nested")]
)
def test_permuting_prompts_permutes_what_is_asked(strategy):
    rng = np.random.default_rng(0)
    for seed in range(20):
        errors, order = random_table(7, 12, seed), rng.permutation(7)
        np.testing.assert_array_equal(replay(strategy, errors[order]), replay(strategy, errors)[order])


def test_a_tie_keeps_the_earlier_prompt():
    known = replay(Staged((2, 4), (1, 1)), np.ones((3, 4), dtype=np.float32))
    assert (~np.isnan(known)).sum(1).tolist() == [4, 2, 2]


def test_exhaustive_asks_for_everything_unknown_once():
    strategy = Exhaustive(4, repeats=2)
    timesteps = strategy.timesteps()
    assert np.array_equal(timesteps[:4], uniform(4)) and np.array_equal(timesteps[4:], uniform(4))
    errors = random_table(3, 8)
    known = errors.copy()
    known[1, 5] = np.nan
    assert np.argwhere(strategy.next(known)).tolist() == [[1, 5]]
    assert strategy.next(errors) is None
    assert strategy.evaluations(3) == 24 and Exhaustive().evaluations(10) == 1000


@pytest.mark.parametrize("grid", ["official", "nested"])
def test_repeats_evaluate_the_same_timesteps_again(grid):
    once, thrice = Staged((3, 12), (2, 1), grid), Staged((3, 12), (2, 1), grid, repeats=3)
    timesteps = thrice.timesteps()
    assert np.array_equal(timesteps, np.tile(once.timesteps(), 3))
    errors = random_table(5, 36)
    for mask, plain in zip(steps_of(thrice, errors), steps_of(once, errors[:, :12]), strict=True):
        asked = np.unique(timesteps[mask.any(0)], return_counts=True)
        assert asked[0].tolist() == np.sort(once.timesteps()[plain.any(0)]).tolist()
        assert set(asked[1].tolist()) == {3}


def test_strategies_do_not_touch_the_table_they_look_at():
    for strategy in (Exhaustive(4), Staged((2, 4), (2, 1))):
        errors = np.full((3, 4), np.nan, dtype=np.float32)
        strategy.next(errors)
        assert np.isnan(errors).all()
        errors = random_table(3, 4)
        copy = errors.copy()
        replay(strategy, errors)
        np.testing.assert_array_equal(errors, copy)


def test_replay_refuses_a_table_with_holes_where_it_looks():
    errors = random_table(3, 4)
    errors[2, 1] = np.nan
    with pytest.raises(ValueError, match="must hold every entry"):
        replay(Exhaustive(4), errors)
    strategy = Staged((2, 4), (1, 1))
    pruned = replay(strategy, random_table(3, 4))
    np.testing.assert_array_equal(replay(strategy, pruned), pruned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": (25, 250), "keep": (5,)}, r"one number per stage, got \(25, 250\) and \(5,\)"),
        ({"trials": (250, 25)}, r"trials must increase from stage to stage, got \(250, 25\)"),
        ({"trials": (25, 25)}, "trials must increase"),
        ({"keep": (5, 2)}, r"keep must end in 1, got \(5, 2\)"),
        ({"keep": (1, 5)}, r"keep must not grow from stage to stage, got \(1, 5\)"),
        ({"trials": (), "keep": ()}, r"trials must be whole numbers of at least 1, got \(\)"),
        ({"trials": (0, 5)}, "trials must be whole numbers of at least 1"),
        ({"trials": (2.5, 5)}, "trials must be whole numbers of at least 1"),
        ({"trials": 2.5}, "trials must be whole numbers of at least 1"),
        ({"trials": None}, "trials must be whole numbers of at least 1"),
        ({"keep": (5, 0)}, "keep must be whole numbers of at least 1"),
        ({"grid": "paper"}, "grid must be 'official', 'nested' or 'random', got 'paper'"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1, got 0"),
        ({"repeats": 1.5}, "repeats must be a whole number of at least 1, got 1.5"),
    ],
)
def test_impossible_stages_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Staged(**arguments)


def test_impossible_budgets_are_refused():
    for arguments in ({"n": 0}, {"n": 2.0}, {"repeats": -1}):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            Exhaustive(**arguments)
    for strategy in (Exhaustive(101), Staged((25, 101)), Staged((25, 101), grid="nested")):
        with pytest.raises(ValueError, match="trials must be at most the model's 100 timesteps, got 101"):
            strategy.timesteps(100)
        with pytest.raises(ValueError, match="at most the model's 100"):
            strategy.evaluations(10, 100)


def test_strategies_are_values():
    assert Staged([25, 250], [5, 1]) == Staged((np.int64(25), 250), (5, 1))
    assert len({Staged(), Staged(), Exhaustive(), Exhaustive(100), Staged(grid="nested")}) == 3
    assert repr(Staged(trials=11, keep=1)) == "Staged(trials=(11,), keep=(1,), grid='official', repeats=1)"
    with pytest.raises(FrozenInstanceError):
        Staged().repeats = 2


# Which trials


def test_which_lists_a_strategy_can_be_replayed_on():
    stored = np.append(Exhaustive(100).timesteps(), [0, 500, 999])
    assert takes_trials_of(Staged(trials=(10, 100), keep=(5, 1)), stored)
    assert not takes_trials_of(Staged(trials=(10, 50), keep=(5, 1)), stored)
    assert not takes_trials_of(Staged(trials=(50, 500), keep=(5, 1)), stored)
    race = Racing(trials=40)
    raced = Racing(trials=500).timesteps()
    noises = Racing(trials=500).noises()
    assert takes_trials_of(race, raced, noises) and not takes_trials_of(race, raced)
    assert takes_trials_of(Staged((8, 40), (3, 1), "random"), raced, noises), "the race's own"
    assert takes_trials_of(Racing(trials=40, antithetic=False), raced)
    assert not takes_trials_of(Racing(trials=40, repeats=2), raced, noises)


def test_strategies_that_lead_to_another_take_its_noises():
    race = Racing(trials=16, repeats=2)
    tree = Hierarchical({"a thing": ["x", "y"], "an animal": ["z"]}, then=race, race=race)
    for strategy in (race, Among((0, 1), race), Shortlist(2, len, race), tree, tree.bind(["x", "y", "z"])):
        assert strategy.noises().tolist() == [*range(16), *(~k for k in range(16))], "of eight timesteps, twice"
    for strategy in (Exhaustive(), Staged(), Staged(grid="nested"), Racing(antithetic=False)):
        assert strategy.noises() is None
    staged = Staged((4, 16), (2, 1), "random", repeats=2)
    assert staged.noises().tolist() == antithetic_noises(16, 2).T.ravel().tolist(), "all once, then all again"
