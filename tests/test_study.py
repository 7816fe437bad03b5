"""The study: fixed schedules found on tune images, every strategy scored on the same trials of test images."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import save_tiny_sd

from diffclf import Racing, Staged, load_model
from diffclf.mini.harness import TASKS, Task, nearest_mean_scorer, open_task
from diffclf.pruning import replay
from diffclf.workbook.study import (
    STUDY,
    _auroc,
    _Runs,
    best_fixed,
    cheapest_race,
    fixed_schedules,
    staged_winners,
    study_table,
    study_task,
)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return load_model(save_tiny_sd(tmp_path_factory.mktemp("study") / "sd"))


def test_schedules_come_by_cost_each_once():
    made = fixed_schedules(10, (4, 8, 16), (5, 2), n_stages=2)
    assert len(made) == len(set(made)) == 3 + 3 * 2
    costs = [schedule.evaluations(10) for schedule in made]
    assert costs == sorted(costs) and costs[0] == 40 and made[-1] == Staged((16,), (1,), "random")
    assert all(max(schedule.keep) < 10 for schedule in fixed_schedules(10, (4, 8), (30, 10, 3)))


def test_winners_of_many_images_at_once_are_those_of_the_replay():
    errors = np.random.default_rng(0).random((30, 10, 16)).astype(np.float32)
    sums = np.cumsum(errors, axis=2, dtype=np.float64)
    for schedule in fixed_schedules(10, (2, 4, 16), (5, 2)):
        tables = [replay(schedule, table[:, : schedule.trials[-1]]) for table in errors]
        last = [np.flatnonzero((~np.isnan(t)).sum(axis=1) == schedule.trials[-1]) for t in tables]
        expected = [rows[t[rows].mean(axis=1, dtype=np.float64).argmin()] for rows, t in zip(last, tables, strict=True)]
        assert staged_winners(schedule, sums).tolist() == expected


def test_an_unknown_error_that_is_asked_for_is_no_winner():
    errors = np.random.default_rng(0).random((2, 4, 8))
    errors[0, errors[0, :, :4].mean(axis=1).argmax(), 5:] = np.nan  # of the prompt that is not kept
    errors[1, :, 4:] = np.nan
    sums = np.cumsum(errors, axis=2)
    assert (staged_winners(Staged((4, 8), (3, 1), "random"), sums) >= 0).tolist() == [True, False]
    assert (staged_winners(Staged((4,), (1,), "random"), sums) >= 0).all()


def test_the_cheapest_schedule_that_is_not_worse_is_found_and_only_what_it_took_is_computed(sd, tmp_path):
    task = Task("mini-items", Staged((4, 12), (3, 1), "random"), Staged((8,), (1,), "random"), 160, 9, 3, (3,))
    data, bank = open_task(task, sd, "tune", 160, tmp_path)
    with pytest.raises(KeyError, match="images must be in the bank"):
        best_fixed(task, bank, data, np.zeros(160, dtype=bool))
    bank.fill(data.images, np.broadcast_to(np.arange(500) < 4, (10, 500)))
    found, said = best_fixed(task, bank, data, np.zeros(160, dtype=bool))  # nobody is worse than never right
    assert found == Staged((4,), (1,), "random") and said["tried"] == 1 and said["low"] > -0.02
    right = bank.errors(data.images)[:, :, :4].mean(axis=2).argmin(axis=1) == data.labels
    assert best_fixed(task, bank, data, right)[1]["value"] == 0
    assert np.isnan(bank.errors(data.images)[:, :, 4:]).all()


def test_the_race_with_the_smallest_threshold_that_is_not_worse_is_found(sd, tmp_path):
    task, race = TASKS["mini-items"], Racing(trials=32, threshold=1.5)
    data, bank = open_task(task, sd, "tune", 40, tmp_path)
    tune = _Runs(bank, data)
    tune.right["reference"] = np.zeros(40, dtype=bool)
    assert cheapest_race(race, tune) == replace(race, threshold=1.0), "the last tried"
    tune.right["reference"] = np.ones(40, dtype=bool)
    assert cheapest_race(race, tune) == race, "none is as good as a perfect reference"
    assert cheapest_race(Racing(trials=32), tune) == Racing(trials=32), "which has no threshold to lower"
    assert np.isnan(bank.errors(data.images)[:, :, :32]).any(), "only what was asked for is computed"


def test_every_strategy_is_scored_on_the_same_images(sd, tmp_path):
    item = TASKS["mini-coloured-items"]
    task = Task(item.dataset, Staged((4, 12), (3, 1), "random"), Staged((4,), (1,), "random"), 4, 4, 3, (3,), item.tree)
    found = study_task(task, sd, tmp_path, pool=600, margin=1)
    assert found["classes"] == 60 and found["images"] == 4
    rows = found["strategies"]
    assert list(rows) == [
        "paper's schedule",
        "best fixed schedule",
        "race",
        "label tree, race",
        "shortlist, race",
    ]
    assert rows["paper's schedule"]["evaluations"]["value"] == 60 * 4 + 3 * 8
    assert rows["paper's schedule"]["difference"]["value"] == 0
    assert rows["shortlist, race"]["evaluations"]["value"] <= 3 * 128 < rows["race"]["evaluations"]["value"]
    assert [row["evaluations"] for row in found["exhaustive"]][:4] == [60, 120, 240, 480]
    left = found["remaining"]
    assert left["trials"] == Racing().looks() and left["rivals_left"] == sorted(left["rivals_left"], reverse=True)
    assert study_task(task, sd, tmp_path, pool=600, margin=1) == found
    json.dumps(found)


def test_area_under_the_curve_by_hand():
    assert _auroc(np.array([3, 2, 1, 0]), np.array([True, True, False, False])) == 1
    assert _auroc(np.array([3, 0, 1, 1]), np.array([True, True, False, False])) == 0.5
    assert _auroc(np.array([1, 1, 1]), np.array([True, False, False])) == 0.5
    assert _auroc(np.array([1, 2]), np.array([True, True])) is None


def test_the_nearest_mean_beats_chance_by_far():
    from diffclf.datasets import load_dataset
    from diffclf.images import load_images, to_pixels

    data, score = load_dataset("mini-items", "tune", 60), nearest_mean_scorer("mini-items", n_images=1000)
    best = [score(to_pixels(image, 32)).argmax() for image in load_images(data.images)]
    assert np.mean(np.array(best) == data.labels) > 0.4


def test_the_shipped_study_is_of_the_shipped_weights():
    from diffclf.workbook.study import read_study

    model = load_model("mini-sd")
    study = read_study(model)
    assert study is not None, f"{STUDY} must be of the weights; run diffclf bench --full"
    for name, task in study["tasks"].items():
        assert TASKS[name].schedule.evaluations(task["classes"]) == round(
            task["strategies"]["paper's schedule"]["evaluations"]["value"]
        )


def test_the_table_says_what_is_shown_by_the_lower_bound():
    def row(evaluations, low):
        return {key: {"value": evaluations, "low": low, "high": 1} for key in ("accuracy", "evaluations", "difference")}

    task = {"strategies": {"paper's schedule": row(100, 0), "a": row(50, -0.019), "b": row(20, -0.021)}}
    table = study_table(task)
    assert table["not worse by 2 points"].tolist() == ["", "shown", "not shown"]
    assert table["times fewer"].tolist() == [1, 2, 5] and table.loc["a", "difference (points)"].level == 0.9
