"""Strategies on stored errors: what they ask for, decide and lose, and that a live run agrees."""

import numpy as np
import pytest

from diffclf import DiffusionClassifier, Exhaustive, Staged
from diffclf.bank import ErrorBank
from diffclf.experiments.e04_adaptive_pruning import (
    agreement,
    decisions,
    evaluations,
    fate_groups,
    fates,
    fit_schedules,
    last_stages,
    n_evaluations,
    run_stored_images,
    search_errors,
    stage_timesteps,
    staged_strategies,
    time_images,
)

PROMPTS = {name: f"a photo of a {name}" for name in ("sneaker", "bag", "shirt", "dress")}
STAGED = Staged(trials=(2, 4), keep=(2, 1), grid="nested")

# Rows: prompts. The first two trials decide who stays; the last two are harder.
TABLE = np.array([[2, 4, 8, 6], [1, 4, 9, 8], [4, 5, 12, 9], [6, 7, 11, 10]], dtype=np.float32)


def test_a_stored_search_asks_for_no_more_than_algorithm_2_and_does_not_decide_by_plain_means():
    tables = run_stored_images(STAGED, np.stack([TABLE, TABLE[::-1]]))
    assert n_evaluations(tables).tolist() == [12, 12]
    assert decisions(tables).tolist() == [0, 3] and np.nanmean(tables[0], axis=1).argmin() == 2
    assert np.isnan(tables[0, 2:, 2:]).all() and not np.isnan(tables[0, :2]).any()
    assert n_evaluations(run_stored_images(Exhaustive(4), TABLE[None])).tolist() == [16]


def test_fates_of_the_true_prompt():
    tables = run_stored_images(STAGED, np.stack([TABLE] * 4))
    assert fates(STAGED, tables, np.arange(4)).tolist() == [0, 2, 1, 1]
    staged = Staged(trials=(2, 4), keep=(5, 1), grid="nested")  # keeps more than there are prompts: loses nobody early
    tables = run_stored_images(staged, TABLE[None, :3])
    assert last_stages(staged, tables).tolist() == [[2, 2, 2]] and fates(staged, tables, [2]).tolist() == [2]
    fate, right = np.array([0, 0, 1, 1, 2, 2]), np.array([True, False] * 3)
    groups = fate_groups(fate, 2, right)
    assert [np.flatnonzero(members).tolist() for members in groups.values()] == [[2], [3], [4], [5], [1]]


def test_last_stage_counts_the_union_of_grids_that_are_not_nested():
    official = Staged(trials=(4, 10, 20, 100), keep=(8, 4, 2, 1))
    errors = np.arange(10)[None, :, None] + np.zeros((1, 10, 100), dtype=np.float32)
    tables = run_stored_images(official, errors)
    assert n_evaluations(tables).tolist() == [official.evaluations(10)] == [324]
    assert last_stages(official, tables).tolist() == [[4, 4, 3, 3, 2, 2, 2, 2, 1, 1]]
    with pytest.raises(ValueError, match=r"trials of a prompt must be one of \[2 4\], got \[3\]"):
        last_stages(STAGED, np.full((1, 2, 4), [1, 1, 1, np.nan]))
    official, nested = (Staged(trials=(2, 5, 10), keep=(4, 2, 1), grid=grid) for grid in ("official", "nested"))
    new = [sorted(first.tolist()) for first, _ in stage_timesteps(official)]
    assert new == [[250, 750], [150, 350, 550, 950], [50, 450, 650, 850]]
    assert [(len(new), len(old)) for new, old in stage_timesteps(nested)] == [(2, 0), (3, 2), (5, 5)]


def test_agreement_sees_other_entries_errors_and_decisions():
    tables = run_stored_images(STAGED, np.stack([TABLE] * 3))
    other = tables.copy()
    other[1, 0, 3] *= 1.01
    other[2, 3, 0] = np.nan
    assert agreement(tables, tables, 1e-4).tolist() == [True, True, True]
    assert agreement(other, tables, 1e-4).tolist() == [True, False, False]
    assert agreement(other, tables, 0.1).tolist() == [True, True, False]


def test_schedules_are_fitted_and_the_nested_grid_is_listed_only_where_it_costs_less():
    made = staged_strategies([{"trials": [10, 100], "keep": [5, 1]}, {"trials": [4, 10, 20], "keep": [8, 4, 1]}], 10)
    assert list(made) == ["10/100 keep 5 1", "4/10/20 keep 8 4 1", "4/10/20 keep 8 4 1, nested"]
    assert [strategy.grid for strategy in made.values()] == ["official", "official", "nested"]
    entries = [{"trials": [25, 250], "keep": [5, 1]}, {"trials": [10, 25, 50, 250], "keep": [20, 10, 5, 1]}]
    assert fit_schedules(entries, 250) == entries
    assert fit_schedules(entries, 100)[0] == {"trials": [10, 100], "keep": [5, 1]}
    assert fit_schedules(entries, 10)[1] == {"trials": [1, 2, 10], "keep": [10, 5, 1]}  # 10 and 25 are one trial each
    assert fit_schedules(entries, 1) == [{"trials": [1], "keep": [1]}] * 2


def test_searches_on_a_bank_on_stored_errors_and_live_agree_and_compute_nothing_twice(tiny_sd, tmp_path):
    images = list(np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    staged, wider = (Staged(trials=(2, 5, 10), keep=keep) for keep in ((3, 2, 1), (4, 3, 1)))
    full, sparse = (
        ErrorBank(tmp_path / name, tiny_sd, list(PROMPTS.values()), staged.trial_list()) for name in ("full", "sparse")
    )
    stored, tables = run_stored_images(staged, full.errors(images)), search_errors(sparse, images, staged)
    np.testing.assert_allclose(tables, stored, rtol=1e-5)
    assert n_evaluations(tables).tolist() == [staged.evaluations(4)] * 3
    spent = sparse.n_evaluations
    assert spent == n_evaluations(tables).sum()
    assert np.array_equal(search_errors(sparse, images, staged), tables, equal_nan=True)
    assert sparse.n_evaluations == spent
    more = search_errors(sparse, images, wider)
    assert sparse.n_evaluations - spent == (~np.isnan(more) & np.isnan(tables)).sum()
    with pytest.raises(ValueError, match="trials of the source must start with those of"):
        search_errors(sparse, images, Exhaustive(7))
    live = DiffusionClassifier(tiny_sd, PROMPTS, pruning=staged)
    ((seconds, found),) = time_images({"staged": live}, images, repeats=2).values()
    np.testing.assert_allclose(found, stored, rtol=1e-5)
    assert live.predict(images).tolist() == live.classes_[decisions(stored)].tolist()
    assert seconds.shape == (2, 3) and (seconds > 0).all()
    with pytest.raises(ValueError, match="got 0 and 3"):
        time_images({"staged": live}, [], 3)


def test_evaluations_by_hand():
    sizes = {"n_images": 6, "n_classes": 10, "n_trials": 10, "n_seeds": 2, "n_timed": 2, "n_timings": 1}
    sizes |= {"race_trials": 16, "schedules": [{"trials": [25, 250], "keep": [5, 1]}], "schedules_apart": []}
    clock = 3 * (10 * 10 + 10 + 5 * 9)
    assert evaluations(sizes) == 6 * (10 * 10 + 10 * 8 + 2 * 8) + clock
    apart = {"schedules_apart": [{"trials": [5, 20], "keep": [5, 1]}]}
    assert evaluations(sizes | apart) == evaluations(sizes) + 6 * (10 * 5 + 5 * 15)
