"""Strategies replayed on stored errors: what they ask for, decide and lose, and that a live run agrees."""

import numpy as np
import pytest
from tiny import save_tiny_sd

from diffclf import DiffusionClassifier, Exhaustive, Staged, load_model
from diffclf.bank import ErrorBank
from diffclf.workbook.replays import (
    agreement,
    decisions,
    evaluations,
    fate_groups,
    fates,
    fill_on_demand,
    fitted,
    last_stages,
    replay_images,
    schedules,
    stage_timesteps,
)
from diffclf.workbook.timing import time_images

PROMPTS = {name: f"a photo of a {name}" for name in ("sneaker", "bag", "shirt", "dress")}
STAGED = Staged(trials=(2, 4), keep=(2, 1), grid="nested")

# Rows: prompts. The first two trials decide who stays; the last two are harder.
TABLE = np.array([[2, 4, 8, 6], [1, 4, 9, 8], [4, 5, 12, 9], [6, 7, 11, 10]], dtype=np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(save_tiny_sd(tmp_path_factory.mktemp("pipeline")), device="cpu")


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))


def test_replay_asks_for_no_more_than_algorithm_2():
    tables = replay_images(STAGED, np.stack([TABLE, TABLE[::-1]]))
    assert evaluations(tables).tolist() == [12, 12]
    assert decisions(tables).tolist() == [0, 3]
    assert np.isnan(tables[0, 2:, 2:]).all() and not np.isnan(tables[0, :2]).any()
    assert evaluations(replay_images(Exhaustive(4), TABLE[None])).tolist() == [16]


def test_decision_is_not_the_lowest_plain_mean():
    tables = replay_images(STAGED, TABLE[None])
    assert np.nanmean(tables[0], axis=1).argmin() == 2
    assert decisions(tables).tolist() == [0]


@pytest.mark.parametrize(("label", "fate"), [(0, 0), (1, 2), (2, 1), (3, 1)])
def test_fate_of_the_true_prompt(label, fate):
    tables = replay_images(STAGED, TABLE[None])
    assert fates(STAGED, tables, [label]).tolist() == [fate]


def test_last_stage_counts_the_union_of_grids_that_are_not_nested():
    official = Staged(trials=(4, 10, 20, 100), keep=(8, 4, 2, 1))
    errors = np.arange(10)[None, :, None] + np.zeros((1, 10, 100), dtype=np.float32)
    tables = replay_images(official, errors)
    assert evaluations(tables).tolist() == [official.evaluations(10)] == [324]
    assert last_stages(official, tables).tolist() == [[4, 4, 3, 3, 2, 2, 2, 2, 1, 1]]
    with pytest.raises(ValueError, match="trials of a prompt must be one of"):
        last_stages(STAGED, np.full((1, 2, 4), [1, 1, 1, np.nan]))


def test_stages_of_a_grid_that_is_not_nested():
    official, nested = (Staged(trials=(2, 5, 10), keep=(4, 2, 1), grid=grid) for grid in ("official", "nested"))
    new = [sorted(first.tolist()) for first, _ in stage_timesteps(official)]
    assert new == [[250, 750], [150, 350, 550, 950], [50, 450, 650, 850]]
    assert [len(first) for first, _ in stage_timesteps(nested)] == [2, 3, 5]
    assert [len(earlier) for _, earlier in stage_timesteps(nested)] == [0, 2, 5]


def test_fate_groups_tell_whose_fault_it_was():
    fate = np.array([0, 0, 1, 1, 2, 2])
    groups = fate_groups(fate, 2, np.array([True, False, True, False, True, False]))
    assert [np.flatnonzero(members).tolist() for members in groups.values()] == [[2], [3], [4], [5], [1]]


def test_agreement_sees_other_entries_errors_and_decisions():
    tables = replay_images(STAGED, np.stack([TABLE] * 3))
    other = tables.copy()
    other[1, 0, 3] *= 1.01
    other[2, 3, 0] = np.nan
    assert agreement(tables, tables).tolist() == [True, True, True]
    assert agreement(other, tables).tolist() == [True, False, False]
    assert agreement(other, tables, rtol=0.1).tolist() == [True, True, False]


def test_more_kept_than_there_are_prompts_loses_nobody_early():
    staged = Staged(trials=(2, 4), keep=(5, 1), grid="nested")
    tables = replay_images(staged, TABLE[None, :3])
    assert last_stages(staged, tables).tolist() == [[2, 2, 2]]
    assert fates(staged, tables, [2]).tolist() == [2]


def test_schedules_list_the_nested_grid_only_where_it_costs_less():
    made = schedules([{"trials": [10, 100], "keep": [5, 1]}, {"trials": [4, 10, 20], "keep": [8, 4, 1]}], 10)
    assert list(made) == ["10/100 keep 5 1", "4/10/20 keep 8 4 1", "4/10/20 keep 8 4 1, nested"]
    assert made["10/100 keep 5 1"] == Staged(trials=(10, 100), keep=(5, 1), grid="official")
    assert made["4/10/20 keep 8 4 1, nested"].grid == "nested"


def test_schedules_fitted_to_another_number_of_trials():
    entries = [{"trials": [25, 250], "keep": [5, 1]}, {"trials": [10, 25, 50, 250], "keep": [20, 10, 5, 1]}]
    assert fitted(entries, 250) == entries
    assert fitted(entries, 100)[0] == {"trials": [10, 100], "keep": [5, 1]}
    assert fitted(entries, 10)[1] == {"trials": [1, 2, 10], "keep": [10, 5, 1]}  # 10 and 25 come to one trial each
    assert fitted(entries, 1) == [{"trials": [1], "keep": [1]}] * 2


def test_filling_on_demand_equals_replay_and_computes_nothing_twice(model, images, tmp_path):
    staged = Staged(trials=(1, 2, 5), keep=(3, 2, 1))
    timesteps = staged.timesteps()
    full = ErrorBank(tmp_path / "full", model, list(PROMPTS.values()), timesteps)
    full.fill(images)
    expected = replay_images(staged, full.errors(images))

    sparse = ErrorBank(tmp_path / "sparse", model, list(PROMPTS.values()), timesteps)
    calls = []
    tables = fill_on_demand(staged, sparse, images, progress=lambda *done: calls.append(done))
    np.testing.assert_allclose(tables, expected, rtol=1e-5)
    assert evaluations(tables).tolist() == [staged.evaluations(4)] * 3
    assert np.array_equal(np.isnan(sparse.errors(images)), np.isnan(tables))
    assert calls == [(1, 3), (2, 3), (3, 3)] * 3

    wider = Staged(trials=(1, 2, 5), keep=(4, 3, 1))
    more = fill_on_demand(wider, sparse, images)
    assert evaluations(more).tolist() == [wider.evaluations(4)] * 3
    again = fill_on_demand(staged, sparse, images)
    assert np.array_equal(again, tables, equal_nan=True)
    with pytest.raises(ValueError, match="bank must hold the trials of"):
        fill_on_demand(Exhaustive(7), sparse, images)


def test_live_classifier_agrees_with_replay(model, images, tmp_path):
    strategies = {"exhaustive": Exhaustive(10), "staged": Staged(trials=(2, 5, 10), keep=(3, 2, 1))}
    bank = ErrorBank(tmp_path, model, list(PROMPTS.values()), Exhaustive(10).timesteps())
    bank.fill(images)
    live = {name: DiffusionClassifier(model, PROMPTS, pruning=strategy) for name, strategy in strategies.items()}
    timings = time_images(live, images, repeats=2)
    for name, strategy in strategies.items():
        tables = replay_images(strategy, bank.errors(images))
        np.testing.assert_allclose(np.stack([table.errors for table in timings[name].tables]), tables, rtol=1e-5)
        predicted = [table.predicted for table in timings[name].tables]
        assert predicted == live[name].classes_[decisions(tables)].tolist()
        assert timings[name].seconds.shape == (2, 3) and timings[name].median > 0
        summary = timings[name].summary()
        assert summary["evaluations"] == strategy.evaluations(4)
        assert 0 < summary["fastest"] <= summary["seconds"] <= summary["slowest"]


def test_timing_needs_images(model):
    with pytest.raises(ValueError, match="got 0 and 3"):
        time_images({"exhaustive": DiffusionClassifier(model, PROMPTS)}, [])
