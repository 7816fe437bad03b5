"""Versions of a model on many tasks: weighted averages, paired steps, the loss of a version, predictors."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from diffclf.bank import ErrorBank
from diffclf.datasets import load_dataset
from diffclf.experiments import e12_model_versions as e12
from diffclf.experiments.field import Field
from diffclf.paths import data_dir
from diffclf.stats import Estimate, mean
from diffclf.workbook.plots import nb12

RNG = np.random.default_rng(0)


def task(right, classnames=("a", "b"), n_classes=2, errors=None, chosen_early=None):
    """Return a task on which version v answers image i correctly where right[v][i]; all labels are 0."""
    n = len(next(iter(right.values())))
    chosen = {v: np.where(np.asarray(own, bool), 0, 1) for v, own in right.items()}
    fields = (
        Field(np.zeros(n, int), np.arange(n), chosen),
        Field(np.zeros(n, int), np.arange(n), chosen_early or chosen),
    )
    return e12.Task(classnames, n_classes, *fields, dict.fromkeys(right, 1.0), np.array([100, 900]), errors or {})


def four(*shares, n=40):
    """Return a task with these shares of right answers of versions v1, v2, ..."""
    return task({f"v{k}": np.arange(n) < share * n for k, share in enumerate(shares, start=1)})


def test_one_task_has_the_interval_of_a_mean():
    values, groups = RNG.normal(size=60), np.repeat(np.arange(20), 3)
    assert e12.combined([values], [groups], [1.0]) == mean(values, groups=groups, signed=True)
    twice = e12.combined([values], [groups], [2.0])
    assert (twice.value, twice.n) == (pytest.approx(2 * values.mean()), 20)


def test_the_average_counts_tasks_alike_and_its_interval_is_that_of_independent_means():
    small, large = RNG.normal(3, 1, 400), RNG.normal(-1, 2, 1600)
    groups = [np.arange(400), 1000 + np.arange(1600)]
    found = e12.combined([small, large], groups, [0.5, 0.5])
    assert found.value == pytest.approx((small.mean() + large.mean()) / 2)
    error = np.sqrt(small.var() / 400 + large.var() / 1600) / 2  # between-task spread has no part in it
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    difference = e12.combined([small, large], groups, [1, -1])
    assert difference.value == pytest.approx(small.mean() - large.mean())


def test_a_photograph_in_two_tasks_is_one_group():
    values = RNG.normal(size=200)
    apart = e12.combined([values, values], [np.arange(200), 500 + np.arange(200)], [0.5, 0.5])
    same = e12.combined([values, values], [np.arange(200)] * 2, [0.5, 0.5])
    assert same.n == 200 and apart.n == 400
    assert (same.high - same.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(2), rel=0.06)
    with pytest.raises(ValueError, match=r"every task must have an image, got sizes \[2, 0\]"):
        e12.combined([[1, 2], []], [[0, 1], []], [0.5, 0.5])


def test_steps_and_accuracies_by_hand():
    tasks = {"x": four(0.25, 0.75, 0.5), "y": four(0.5, 0.5, 1.0, n=20)}
    found = e12.steps(tasks)
    assert {name: [round(gain.value, 9) for gain in own.values()] for name, own in found.items()} == {
        "x": [50, -25], "y": [0, 50], "average": [25, 12.5],
    }  # fmt: skip
    assert list(found["x"]) == ["v1 to v2", "v2 to v3"]
    few = e12.steps({"x": four(0, 1, n=3)})["x"]["v1 to v2"]
    assert tuple(few) == (100, -100, 100), "too few images for an interval: all possible gains"
    accuracy = e12.accuracies(tasks)
    assert [round(own.value, 9) for own in accuracy["average"].values()] == [37.5, 62.5, 75]
    rows = e12.accuracy_rows(tasks, accuracy)
    assert [rows[name]["images"] for name in rows] == [40, 20, 60] and rows["x"]["chance"] == 50
    assert e12.share_reached(accuracy["average"]) == pytest.approx({"v1": 0, "v2": 100 * 25 / 37.5, "v3": 100})
    assert e12.share_reached(dict.fromkeys("ab", Estimate(5, 4, 6))) == {"a": 0, "b": 0}
    said = e12.reading(found, {"gap": {"size of a step": Estimate(0.5, 0, 1)}})
    assert "v1 to v2: 25.0" in said[0] and "more accurate: x; reliably less: no task" in said[0]
    assert "more accurate: y; reliably less: x;" in said[1] and said[2].endswith("gap 0.50 [0.00, 1.00].")


def test_contrasts_name_versions_and_tasks_by_their_roles():
    tasks = {"x": four(0.0, 0.25, 0.75, 0.875), "y": four(0.1, 0.5, 0.5, 0.5)}
    settings = {"first_step": ["owner/v2", "v3"], "last_step": ["v3", "owner/v4"], "similar": ["x"]}
    found = e12.contrasts(tasks, settings | {"dissimilar": ["y"]}, 0.99)
    assert {name: pytest.approx(estimate.value) for name, estimate in found.items()} == {
        "first-step-gains": 25, "last-step-is-flat": 6.25, "most-comes-first": 18.75, "similar-classes-gain-more": 62.5,
    }  # fmt: skip
    assert {estimate.level for estimate in found.values()} == {0.99}


def test_paper_numbers():
    table = {"columns": ["A", "B"], "rows": {"1.1": [1, 3], "1.2": [5, 9], "1.4": [6, 8], "1.5": [6.5, 8.5]}}
    paper = e12.paper_accuracies(table)
    assert paper["A"]["1.4"] == 6 and paper["average"] == {"1.1": 2, "1.2": 7, "1.4": 7, "1.5": 7.5}
    settings = {"first_step": ["o/v1", "v2"], "last_step": ["v5", "v6"]}
    assert e12.paper_marks(paper, settings) == {"v1 to v2": {"1.1 to 1.2": 5}, "v5 to v6": {"1.4 to 1.5": 0.5}}


def test_the_loss_of_a_power_law_is_its_value_and_noise_is_smoothed():
    samples = np.arange(100, 1100, 100)
    losses = 3 * samples**-0.4
    assert e12.loss_at(samples, losses, 333) == pytest.approx(3 * 333**-0.4)
    assert e12.loss_at(samples, losses, 5000) == pytest.approx(3 * 5000**-0.4), "beyond the log the line goes on"
    noisy = losses * np.where(np.arange(10) % 2, 1.05, 0.95)
    assert abs(e12.loss_at(samples, noisy, 500) / (3 * 500**-0.4) - 1) < 0.03
    losses[8:] = 100.0
    assert e12.loss_at(samples, losses, 300) == pytest.approx(3 * 300**-0.4), "only the five nearest count"


def test_logged_losses_fall_along_the_training():
    names = ["mini-sd@1", "mini-sd@2", "mini-sd"]
    seen, found = e12.samples_seen(names), e12.logged_loss(names)
    assert list(seen) == list(found) == names and [seen["mini-sd@1"], seen["mini-sd@2"]] == [24_000, 90_000]
    with (data_dir() / "models/mini-sd/training/denoiser.csv").open() as file:
        log = [(int(row["samples"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert seen["mini-sd"] == log[-1][0] and list(found.values()) == sorted(found.values(), reverse=True)
    nearest = min(log, key=lambda entry: abs(entry[0] - 90_000))
    assert found["mini-sd@2"] == pytest.approx(nearest[1], rel=0.03)
    assert e12.samples_seen(["owner/v1", "owner/v2"]) == e12.logged_loss(["owner/v1", "owner/v2"]) == {}


def test_predictors_and_their_rank_correlations():
    def errors(*pairs):  # true error and gap of each version
        return {
            f"v{k}": np.array([[[true - 0.1, true + 0.1], [true - 0.1 + gap, true + 0.1 + gap]]])
            for k, (true, gap) in enumerate(pairs, start=1)
        }

    shares = {"x": (0.1, 0.2, 0.9), "y": (0.1, 0.9, 0.95)}
    tables = {"x": errors((0.8, 0.01), (0.4, 0.02), (0.3, 0.09)), "y": errors((0.8, 0.01), (0.7, 0.09), (0.3, 0.095))}
    tasks = {
        name: task({f"v{k}": np.arange(40) < s * 40 for k, s in enumerate(own, 1)}, errors=tables[name])
        for name, own in shares.items()
    }
    tasks["without tune images"] = four(0.5, 0.5, 0.5)
    found = e12.predictors(tasks, {"v1": 0.5, "v2": 0.3, "v3": 0.2})
    assert list(found) == list(e12.PREDICTORS) and found["training loss"]["y"] == [0.5, 0.3, 0.2]
    assert found["denoising error"]["x"] == pytest.approx([0.8, 0.4, 0.3])
    assert found["gap"]["y"] == pytest.approx([0.01, 0.09, 0.095]) and set(found["gap"]) == {"x", "y"}
    assert list(e12.predictors(tasks, {})) == list(e12.PREDICTORS[1:])
    rows = e12.predictor_rows(tasks, found)
    assert all(row["order within a task"] == pytest.approx(1) for row in rows.values())
    assert rows["gap"]["size of a step"].value == pytest.approx(1)
    assert rows["denoising error"]["size of a step"].value < 0, "where the error falls much the gain is small"


def test_a_study_asks_all_versions_the_same(tiny_sd, tmp_path):
    def bank(model, prompts, trials, **options):
        return ErrorBank(tmp_path, model, prompts, trials, seed=0, **options)

    def size(**changes):
        return {"classes": 10, "images": 3, "tune": 2, "trials": [4, 8], "keep": [3, 1]} | changes

    sizes = {"mini-items": size(), "mini-binding": size(classes=2, images=9, trials=[8], keep=[1], tune=0)}
    settings = {"n_images": 3, "tasks": sizes, "checkpoints": ["one", "two"]}
    tasks = e12.study(bank, {"one": tiny_sd, "two": tiny_sd}, settings)
    items, binding = tasks.values()
    data = load_dataset("mini-items", n_images=3)
    strategy = e12.strategy(sizes["mini-items"])
    whole = bank(tiny_sd, data.prompts_for(tiny_sd), strategy.trial_list(), losses=("l2",)).errors(
        data.images, desc=None
    )
    assert (items.early.chosen["one"] == whole[:, :, :4].mean(axis=2).argmin(axis=1)).all()
    assert (items.field.chosen["one"] == items.field.chosen["two"]).all() and items.spent["one"] == 10 * 4 + 3 * 4
    assert (items.field.groups == data.groups).all() and items.field.labels.tolist() == data.labels.tolist()
    assert items.errors["one"].shape == (2, 2, 8) and not binding.errors and len(binding.field.labels) == 3
    tune = load_dataset("mini-items", "tune", 2)
    own = bank(tiny_sd, tune.prompts_for(tiny_sd), strategy.trial_list(), losses=("l2",)).errors(tune.images, desc=None)
    for image, label in enumerate(tune.labels):
        expected = own[image, [label, (label + 1) % 10]]
        np.testing.assert_allclose(items.errors["two"][image], expected, rtol=1e-5)
    assert e12.evaluations(settings) == 2 * (3 * (10 * 4 + 3 * 4) + 2 * 2 * 8 + 3 * 2 * 8)


def test_pairs_of_classes_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    chosen = {"v1": np.array([1, 1, 0, 2, 1, 0, 2]), "v2": np.array([2, 0, 0, 2, 1, 1, 0])}
    own = SimpleNamespace(classnames=("a", "b", "c", "d"), field=Field(labels, np.arange(7), chosen))
    rows = e12.pair_rows(own, 2)
    assert list(rows) == ["a, c", "a, b"]
    assert rows["a, c"] == pytest.approx({"v1": 20, "v2": 60}) and rows["a, b"] == pytest.approx({"v1": 50, "v2": 0})


def test_four_trials_against_all():
    right = {"v1": [1, 1, 0, 0], "v2": [1, 1, 1, 1]}
    early = {"v1": np.array([1, 0, 1, 1]), "v2": np.array([0, 0, 0, 1])}
    rows = e12.trial_rows({"x": task(right, chosen_early=early), "y": task(right)})
    assert rows["v1"] == {"after 4 trials": 37.5, "in the end": 50, "gain": 12.5, "same answer": 87.5}
    assert rows["v2"]["after 4 trials"] == 87.5


def test_the_gap_by_timestep():
    errors = {"v1": np.array([[[1.0, 2.0], [1.5, 2.25]]] * 9, dtype=np.float32)}
    rows = e12.gap_by_timestep(task({"v1": [1]}, errors=errors))
    assert {name: estimate.value for name, estimate in rows["v1"].items()} == {"0 to 249": 500, "750 to 999": 250}


def test_figures_show_their_numbers():
    tasks = {"x": four(0.25, 0.75), "y": four(0.5, 0.5)}
    accuracy, gains = e12.accuracies(tasks), e12.steps(tasks)
    paper = {"A": {"1.1": 60.0, "1.2": 70.0}, "average": {"1.1": 60.0, "1.2": 70.0}}
    fig = nb12.version_panels(accuracy, paper)
    assert [line.get_ydata().tolist() for line in fig.axes[0].lines[:3]] == [[25, 75], [50, 50], [37.5, 62.5]]
    assert "v1 37.5, v2 62.5" in nb12.version_panels_alt(accuracy, paper)
    marks = {"v1 to v2": {"1.1 to 1.2": 6.25}}
    (ax,) = nb12.step_panels(gains, marks).axes
    assert [text.get_text() for text in ax.texts] == ["paper, 1.1 to 1.2"]
    assert "v1 to v2" in (ax.get_title("left"), ax.get_title("center"))  # the style of the workbook decides
    assert "v1 to v2: x 50.0; y 0.0; average 25.0. The paper, 1.1 to 1.2: 6.2" in nb12.step_panels_alt(gains, marks)
    measured = {"gap": {"x": [-0.1, 0.2], "y": [0.1, 0.3]}, "denoising error": {"x": [0.3, 0.2], "y": [0.2, 0.1]}}
    fig = nb12.predictor_panels(measured, accuracy)
    assert [ax.get_xscale() for ax in fig.axes] == ["linear", "log"]
    assert [text.get_text() for text in fig.legends[0].texts] == ["v1", "v2"]
    said = nb12.predictor_panels_alt(measured, {"gap": 0.5, "denoising error": -0.1})
    assert "gap, -0.1 to 0.3, correlation of the ranks 0.50" in said


def test_labels_are_kept_apart_and_in_order():
    heights = nb12._apart([100, 99, 98, 20, 21], 4, top=101)
    assert heights.tolist() == [101, 97, 93, 20, 24]
