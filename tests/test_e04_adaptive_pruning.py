"""Strategies on stored errors: what they ask for, decide and lose; their costs; and that a live run agrees."""

import json

import numpy as np
import pytest

from diffclf import Exhaustive, Staged
from diffclf.bank import ErrorBank
from diffclf.datasets import ImageSet
from diffclf.experiments import e04_adaptive_pruning as e04
from diffclf.paths import data_dir
from diffclf.stats import paired_difference
from diffclf.workbook.claims import judge, read_claims
from diffclf.workbook.settings import resolve

PROMPTS = {name: f"a photo of a {name}" for name in ("sneaker", "bag", "shirt", "dress")}
STAGED = Staged(trials=(2, 4), keep=(2, 1), grid="nested")
PAPER = json.loads((data_dir() / "paper" / "tables.json").read_text())

# Rows: prompts. The first two trials decide who stays; the last two are harder.
TABLE = np.array([[2, 4, 8, 6], [1, 4, 9, 8], [4, 5, 12, 9], [6, 7, 11, 10]], dtype=np.float32)


def searches(errors, labels):
    tables = {"exhaustive": errors, "staged": e04.run_stored_images(STAGED, errors)}
    return e04.Searches(
        np.asarray(labels), np.arange(len(labels)), {"exhaustive": Exhaustive(4), "staged": STAGED}, tables
    )


@pytest.fixture
def images():
    pixels = list(np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    return ImageSet("made up", pixels, np.array([0, 1, 2]), tuple(PROMPTS), PROMPTS, np.array([7, 7, 8]))


def test_a_stored_search_asks_for_no_more_than_algorithm_2_and_does_not_decide_by_plain_means():
    tables = e04.run_stored_images(STAGED, np.stack([TABLE, TABLE[::-1]]))
    assert e04.n_evaluations(tables).tolist() == [12, 12]
    assert e04.decisions(tables).tolist() == [0, 3] and np.nanmean(tables[0], axis=1).argmin() == 2
    assert np.isnan(tables[0, 2:, 2:]).all() and not np.isnan(tables[0, :2]).any()
    assert e04.n_evaluations(e04.run_stored_images(Exhaustive(4), TABLE[None])).tolist() == [16]


def test_costs_and_differences_by_hand():
    # With two trials the boot wins, with three or four the sneaker; the last image is right only with fewer trials.
    run = searches(np.stack([TABLE] * 3), [0, 0, 1])
    assert (run.cost("exhaustive"), run.cost("staged"), run.equal_trials("staged")) == (16, 12, 3)
    assert [run.compare("staged", n).value for n in (4, 3)] == [0, 0]
    assert run.compare("staged", 2).value == pytest.approx(100 / 3)
    budgets, estimates = run.curve()
    assert budgets.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose([e.value for e in estimates], [100 / 3, 100 / 3, 200 / 3, 200 / 3])
    assert run.points()["staged"][0] == 3 and run.rows()["staged"]["times fewer"] == 16 / 12
    assert list(run.gaps()["staged"]) == list(run.rows()["staged"])[-2:]


def test_fates_of_the_true_prompt():
    run = searches(np.stack([TABLE] * 4), np.arange(4))
    assert [np.flatnonzero(members).tolist() for members in run.fates("staged").values()] == [[], [2, 3], [1], []]
    # The bag would win all four trials, is dropped, and the sneaker is chosen: harm if it is true, help if not.
    late = TABLE.copy()
    late[2, 2:] = 1
    run = searches(np.stack([late] * 2), [2, 0])
    assert [np.flatnonzero(members).tolist() for members in run.fates("staged").values()] == [[0], [], [], [1]]


def test_a_true_prompt_that_is_kept_to_the_end_and_loses_has_lost_in_exhaustive_search():
    rng = np.random.default_rng(0)
    run = searches(rng.random((500, 6, 4)), rng.integers(0, 6, 500))
    told = np.any(list(run.fates("staged").values()), axis=0)
    assert np.array_equal(told, ~(run.correct["staged"] & run.correct["exhaustive"])) and not told.all()
    assert all(members.any() for members in run.fates("staged").values())


def test_schedules_are_fitted_and_the_nested_grid_is_listed_only_where_it_costs_less():
    entries = [{"trials": [10, 100], "keep": [5, 1]}, {"trials": [4, 10, 20], "keep": [8, 4, 1]}]
    made = e04.staged_strategies(entries, 10)
    assert list(made) == ["10/100 keep 5 1", "4/10/20 keep 8 4 1", "4/10/20 keep 8 4 1, nested"]
    assert [strategy.grid for strategy in made.values()] == ["official", "official", "nested"]
    entries = [{"trials": [25, 250], "keep": [5, 1]}, {"trials": [10, 25, 50, 250], "keep": [20, 10, 5, 1]}]
    assert e04.fit_schedules(entries, 250) == entries
    assert e04.fit_schedules(entries, 100)[0] == {"trials": [10, 100], "keep": [5, 1]}
    assert e04.fit_schedules(entries, 10)[1] == {
        "trials": [1, 2, 10],
        "keep": [10, 5, 1],
    }  # 10 and 25 are one trial each
    assert e04.fit_schedules(entries, 1) == [{"trials": [1], "keep": [1]}] * 2


def test_searches_on_a_bank_agree_with_stored_ones_and_compute_nothing_twice(tiny_sd, tmp_path, images):
    staged, wider = (Staged(trials=(2, 5, 10), keep=keep) for keep in ((3, 2, 1), (4, 3, 1)))
    full, sparse = (
        ErrorBank(tmp_path / name, tiny_sd, list(PROMPTS.values()), staged.trial_list()) for name in ("full", "sparse")
    )
    stored = e04.run_stored_images(staged, full.errors(images.images))
    tables = e04.search_errors(sparse, images.images, staged)
    np.testing.assert_allclose(tables, stored, rtol=1e-5)
    assert e04.n_evaluations(tables).tolist() == [staged.evaluations(4)] * 3
    spent = sparse.n_evaluations
    assert spent == e04.n_evaluations(tables).sum()
    assert np.array_equal(e04.search_errors(sparse, images.images, staged), tables, equal_nan=True)
    assert sparse.n_evaluations == spent
    more = e04.search_errors(sparse, images.images, wider)
    assert sparse.n_evaluations - spent == (~np.isnan(more) & np.isnan(tables)).sum()
    with pytest.raises(ValueError, match="trials of the source must start with those of"):
        e04.search_errors(sparse, images.images, Exhaustive(7))


@pytest.mark.parametrize("n_trials", [10, 7])  # of 1000 timesteps the official grid of 7 is not that of `uniform`
def test_a_run_counts_its_evaluations_and_a_live_classifier_finds_the_same(tiny_sd, tmp_path, images, n_trials):
    settings = {"n_trials": n_trials, "n_repeats": 1, "seed": 4, "n_seeds": 2, "n_images": 3, "n_classes": 4}
    settings |= {"schedules": [{"trials": [2, 10], "keep": [2, 1]}], "n_timed": 2, "n_timings": 3}

    def make_bank(model, prompts, trials, seed):
        return ErrorBank(tmp_path, model, prompts, trials, seed=seed)

    run, spent = e04.run_searches(make_bank, tiny_sd, images, settings)
    (name,) = list(run.strategies)[1:]
    first, all_trials = run.strategies[name].trials[0], 4 * n_trials
    cost = 4 * first + 2 * (n_trials - first)
    apart = 0 if n_trials == 10 else 2 * cost
    assert (run.cost(name), run.cost("exhaustive"), spent) == (cost, all_trials, 3 * (2 * all_trials + apart))
    assert run.labels.tolist() == [0, 1, 2] * 2 and run.groups.tolist() == [7, 7, 8] * 2
    clocked = all_trials + cost + 4 * 8 + 2 * 120
    assert e04.evaluations(settings) == 3 * (all_trials + apart) + 7 * clocked
    timed = e04.time_images(tiny_sd, images, run.strategies, repeats=2, seed=4)
    for name, (seconds, found) in timed.items():
        np.testing.assert_allclose(found, run.tables[name][:3], rtol=1e-5)
        assert seconds.shape == (2, 3) and (seconds > 0).all()
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        e04.time_images(tiny_sd, images, run.strategies, repeats=0)


def test_tables_6_and_7():
    rows = e04.table6_rows(PAPER["table6_schedules"])
    counted = {name: (row["Algorithm 2"], row["released code"]) for name, row in rows.items()}
    assert counted == {name: tuple(row[4:]) for name, row in PAPER["table6_schedules"]["rows"].items()}
    assert rows["CIFAR10"]["times fewer"] == 5000 / 2750
    timed = {"exhaustive": (np.full((1, 2), 6.0), np.zeros((2, 3, 4)))}
    timed["half"] = np.array([[1.0, 2.0], [4.0, 2.0]]), np.where(np.arange(4) < 2, 0, np.nan) + np.zeros((2, 3, 1))
    rows = e04.table7_rows(timed, PAPER["table6_schedules"], PAPER["table7_cost"])
    assert rows["paper, Pets"] == {"evaluations": 1890, "seconds": 18, "per second": 105}
    own = {
        "evaluations": 6,
        "seconds": 2,
        "fastest": 1,
        "slowest": 4,
        "times fewer": 2,
        "times faster": 3,
        "per second": 3,
    }
    assert rows["here, half"] == own


def test_the_mini_profile_has_enough_images_to_say_that_pruning_changes_nothing():
    claim = read_claims("04_adaptive_pruning")["staged-not-worse"]
    right, harmed = np.ones(resolve("04_adaptive_pruning", "mini")["n_images"]), np.ones(150)
    harmed[0] = 0
    assert judge(claim, 100 * paired_difference(right, right, level=claim.level)) == "holds"
    assert judge(claim, 100 * paired_difference(right[:148], right[:148], level=claim.level)) == "undecided"
    assert judge(claim, 100 * paired_difference(harmed, np.ones(150), level=claim.level)) == "undecided"
