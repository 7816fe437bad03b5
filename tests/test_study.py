"""The study: what is chosen on tune images, and every strategy scored on the same trials of test images."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffclf import Racing, Staged
from diffclf.experiments.study import (
    STUDY,
    ablation_rows,
    ablations,
    exhaustive_curve,
    project,
    projection_rows,
    read_study,
    remaining_rivals,
    strategy_rows,
    study_task,
    task_facts,
    weighted_accuracies,
)
from diffclf.experiments.tasks import TASKS, Task, best_fixed, cheapest_race, fixed_schedules, run_task
from diffclf.pruning.calibration import calibrate
from diffclf.search import search


def test_schedules_come_by_cost_each_once():
    made = fixed_schedules(10, (4, 8, 16), (5, 2), n_stages=2)
    assert len(made) == len(set(made)) == 3 + 3 * 2
    costs = [schedule.evaluations(10) for schedule in made]
    assert costs == sorted(costs) and costs[0] == 40 and made[-1] == Staged((16,), (1,), "random")
    assert all(max(schedule.keep) < 10 for schedule in fixed_schedules(10, (4, 8), (30, 10, 3)))


def test_the_list_of_trials_holds_those_of_a_race_and_of_the_schedules(tiny_sd, tmp_path):
    for task in TASKS.values():
        data, bank = task.open(tiny_sd, "tune", 2, tmp_path)
        assert len(bank.prompts) == len(data.classnames) + len(task.tree)
        for strategy in (*task.races(Racing()).values(), task.schedule, task.reference):
            assert bank.trials.starts_with(strategy.trial_list())


def test_a_run_leaves_the_nodes_of_a_label_tree_out_of_its_tables_but_counts_them(tiny_sd, tmp_path):
    task = TASKS["mini-coloured-items"]
    data, bank = task.open(tiny_sd, "tune", 3, tmp_path)
    plain = run_task(bank, data, Staged((2,), (1,), "random"))
    assert plain.tables.shape == (3, 60, 2) and plain.spent.tolist() == [120] * 3
    assert plain.right.tolist() == (plain.tables.mean(axis=2).argmin(axis=1) == data.labels).tolist()
    tree = task.races(Racing(threshold=2.0))["label tree, race"]
    run = run_task(bank, data, tree)
    tables = list(search(bank, data.images, tree.prepare(tiny_sd, data.classnames)))
    assert run.tables.shape == (3, 60, 128) and run.spent.tolist() == [table.n_evaluations for table in tables]
    assert ((~np.isnan(run.tables)).sum(axis=(1, 2)) < run.spent).all()


def test_the_cheapest_schedule_that_is_not_worse_is_found(tiny_sd, tmp_path):
    data, bank = TASKS["mini-items"].open(tiny_sd, "tune", 160, tmp_path)
    found, difference, tried = best_fixed(bank, data, (3,), np.zeros(160, dtype=bool))  # none is worse than never right
    assert found == Staged((4,), (1,), "random") and tried == 1 and difference.low > -0.02
    assert bank.n_evaluations == 160 * 10 * 4, "only what it took is computed"
    right = run_task(bank, data, found).right
    assert best_fixed(bank, data, (3,), right)[1].value == 0
    with pytest.raises(ValueError, match="schedules must include one that is not worse by -1, got none among"):
        best_fixed(bank, replace(data, images=data.images[:4], labels=data.labels[:4]), (), right[:4], margin=-1)


def test_the_race_with_the_smallest_threshold_that_is_not_worse_is_found(tiny_sd, tmp_path):
    race = Racing(trials=32, threshold=1.5)
    data, bank = TASKS["mini-items"].open(tiny_sd, "tune", 40, tmp_path)
    never, always = np.zeros(40, dtype=bool), np.ones(40, dtype=bool)
    assert cheapest_race(race, bank, data, never) == replace(race, threshold=1.0), "the last tried"
    assert cheapest_race(race, bank, data, always) == race, "none is as good as a perfect reference"
    assert cheapest_race(Racing(trials=32), bank, data, never) == Racing(trials=32), "which has no threshold to lower"


def test_every_strategy_is_scored_on_the_same_images(tiny_sd, tmp_path):
    item = TASKS["mini-coloured-items"]
    task = Task(item.dataset, Staged((4, 12), (3, 1), "random"), Staged((8,), (1,), "random"), 4, 4, 3, (3,), item.tree)
    found = study_task(task, tiny_sd, tmp_path, pool=600, margin=1)
    assert found["classes"] == 60 and found["images"] == 4
    rows = found["strategies"]
    assert list(rows) == ["paper's schedule", "best fixed schedule", "race", "label tree, race", "shortlist, race"]
    assert rows["paper's schedule"]["evaluations"]["value"] == 60 * 4 + 3 * 8
    assert rows["paper's schedule"]["difference"]["value"] == 0
    assert rows["shortlist, race"]["evaluations"]["value"] <= 3 * 128 < rows["race"]["evaluations"]["value"]
    assert [row["evaluations"] for row in found["exhaustive"]] == [60, 120, 240, 480]
    assert found["remaining"]["trials"] == Racing().looks()
    assert found["remaining"]["rivals_left"] == sorted(found["remaining"]["rivals_left"], reverse=True)
    for what in ("auroc_of_evaluations", "auroc_of_margin"):
        assert found["confidence"][what] is None or 0 <= found["confidence"][what] <= 1
    assert study_task(task, tiny_sd, tmp_path, pool=600, margin=1) == found
    json.dumps(found)


def test_ablations_calibrate_races_with_and_without_on_the_same_images(tiny_sd, tmp_path):
    found = ablations(tiny_sd, tmp_path, n_trials=24, n_images=6, error=1)
    assert found["images"] == 6
    options = {"race": {}, "independent noise": {"antithetic": False}, "own variances": {"prior_pairs": 0}}
    for name, race in {name: Racing(trials=24, **own) for name, own in options.items()}.items():
        data, bank = TASKS["mini-items"].open(tiny_sd, "tune", 6, tmp_path, antithetic=race.antithetic)
        tables = bank.errors(data.images, n_trials=24)
        assert found["races"][name]["evaluations"] == calibrate(race, tables, error=1).n_evaluations
        assert found["races"][name]["full_accuracy"] == np.mean(tables.mean(axis=2).argmin(axis=1) == data.labels)
    n_images, rows = ablation_rows({"tried": found})
    assert n_images == 6 and rows["every second block of noises mirrored"]["result"] in ("kept", "no help")


def test_weights_help_where_only_some_trials_tell_classes_apart():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    errors = rng.normal(0, 0.3, (400, 4, 20))
    errors[:, :, :10] += 3 * rng.normal(0, 1, (400, 4, 10))  # trials that only differ
    errors[np.arange(400), labels, 10:] -= 0.3
    found = weighted_accuracies(errors, labels)
    assert found["1 / spread squared"] > found["flat"] + 0.2 > found["spread"] + 0.2


def test_a_projection_by_hand_and_of_a_measured_task():
    # 8 trials of all 10, 8 more of the winner and a third of 9 rivals, nothing more once none is left
    assert project(10, [8, 16, 24], [1 / 3, 0, 0]) == 80 + 8 * 4
    assert project(100, [8, 16], [0.1, 0.1]) == 800 + 8 * (1 + 9.9)
    study = {"tasks": {"a": {"remaining": {"trials": [8, 16], "rivals_left": [0.5, 0]}}}}
    row = projection_rows({"Pets": [37, [5, 1], [25, 250], 0]}, study)["Pets"]
    assert row["paper's schedule"] == Staged((25, 250), (5, 1)).evaluations(37)
    assert row["race, as on a"] == pytest.approx(8 * 37 + 8 * 19)
    rng, race = np.random.default_rng(0), Racing(threshold=2.0)
    tables = rng.normal(0, 1, (40, 8, 128)) + rng.normal(0, 1, (40, 8, 1))
    spent = np.mean([list(race.rounds(table))[-1].n_evaluations for table in tables])
    # dearer only by the winner's own trials where several rivals are left on one image and none on another
    assert spent <= project(8, **remaining_rivals(race, tables)) <= 1.25 * spent


def test_the_shipped_study_is_of_the_shipped_weights(mini_sd, tiny_sd):
    study = read_study(mini_sd)
    assert study is not None, f"{STUDY} must be of the weights; run diffclf bench --full"
    for name, task in study["tasks"].items():
        row = strategy_rows(task)["paper's schedule"]
        assert TASKS[name].schedule.evaluations(task_facts(task)["classes"]) == round(row["evaluations"])
        spent, accuracy = exhaustive_curve(task)
        assert spent[0] == task_facts(task)["classes"] and 0 < accuracy[0].value < accuracy[-1].value < 100
    assert read_study(tiny_sd) is None


def test_the_rows_say_what_is_shown_by_the_lower_bound():
    def run(evaluations, low):
        return {key: {"value": evaluations, "low": low, "high": 1} for key in ("accuracy", "evaluations", "difference")}

    rows = strategy_rows({"strategies": {"paper's schedule": run(100, 0), "a": run(50, -0.019), "b": run(20, -0.021)}})
    assert [row["not worse by 2 points"] for row in rows.values()] == ["", "shown", "not shown"]
    assert [row["times fewer"] for row in rows.values()] == [1, 2, 5] and rows["a"]["difference (points)"].level == 0.9
