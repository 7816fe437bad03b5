"""The training filter: shares, groups of images, paired gains of arms, stored scores, figures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from diffclf.bank import ErrorBank
from diffclf.datasets import ImageSet, load_dataset
from diffclf.datasets.crawl import ATTRIBUTES, FILTERS, MIN_QUALITY, crawled
from diffclf.experiments import e07_training_filter as e07
from diffclf.mini.crawl import ARMS
from diffclf.paths import data_dir
from diffclf.search import ErrorSource, compute_errors
from diffclf.stats import Estimate, crossed, proportion
from diffclf.trials import TrialList, uniform
from diffclf.workbook.plots import nb07

RNG = np.random.default_rng(0)
GOOD, LOW = MIN_QUALITY + 0.01, MIN_QUALITY - 0.01
KINDS = [(32, GOOD, False), (16, GOOD, False), (8, LOW, True), (32, LOW, False), (32, GOOD, True), (32, LOW, True)]
SETTINGS = {"tasks": ["mini-items", "mini-footwear"], "n_table": 50, "filters": {}}


def scores(right, kinds=None, n_classes=3):
    """Return scores of models (n_arms, n_seeds, n_images) that answer correctly where `right` says so; labels are 1."""
    right = np.asarray(right, bool)
    n = right.shape[2]
    errors = np.full((*right.shape, n_classes), 0.3)
    errors[..., 1] = np.where(right, 0.1, 0.5)
    own = np.array([KINDS[i] for i in (kinds or [0] * n)], ATTRIBUTES)
    return e07.Scores(errors.astype(np.float32), np.ones(n, np.int64), own)


@pytest.fixture(scope="module")
def many():
    """Scores of three trainings of each arm on 60 images, ten of each kind."""
    return scores(RNG.random((3, 3, 60)) < np.array([0.4, 0.6, 0.5])[:, None, None], kinds=list(range(6)) * 10)


def test_evaluations_are_those_of_the_images_that_have_scores():
    settings = {"n_classes": 10, "n_trials": 25, "checkpoints": ["a", "b", "c"]}
    assert e07.evaluations(settings | {"n_images": 40}) == 30_000
    assert e07.evaluations(settings | {"n_images": 5000}) == e07.evaluations(settings | {"n_images": 500})


def small_set(passed, labels):
    data = SimpleNamespace(labels=np.array(labels), classnames=("bag", "boot", "coat"))
    every = dict.fromkeys(FILTERS, np.ones(len(labels), bool))
    return e07.FilteredSet(data, every | {"R+Q+F": np.array(passed, bool)})


def test_shares_of_a_set_and_of_its_classes():
    own = small_set([1, 1, 1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 2, 2, 2, 2])
    assert own.shares()["R+Q+F"] == 100 * proportion(4, 8) and own.shares(2)["R+Q+F"] == 100 * proportion(1, 4)
    assert own.shares()["R"].value == 100 and list(own.shares()) == list(FILTERS)
    rows = e07.class_rows(own)
    assert list(rows) == ["coat", "bag"], "the rarest first, none without images"
    assert [(row["before"], row["after"]) for row in rows.values()] == [(50, 25), (50, 75)]
    assert e07.class_reading(rows)[0] == (
        "coat: 100 [51, 100]% have enough quality, 25 [5, 70]% pass the whole filter; 50.0% of the images before it, "
        "25.0% after it"
    )
    assert e07.class_rows(small_set([0, 0], [0, 2]))["bag"]["after"] == 0


def test_every_set_is_crawled_anew_and_columns_are_parts_of_each_other():
    sets = e07.filter_sets(SETTINGS)
    assert list(sets) == SETTINGS["tasks"] and all(len(own.data) == 50 for own in sets.values())
    items, footwear = (own.passed for own in sets.values())
    assert (items["R"] != footwear["R"]).any(), "another crawl"
    assert (items["R+Q+F"] == (items["R"] & items["Q"] & items["F"])).all()
    assert (items["Q+F"] == (items["Q"] & items["F"])).all()
    whole, attributes = crawled(load_dataset("mini-items"))
    assert (items["R"] == (attributes["resolution"][:50] == 32)).all() and len(whole) == 2000


def test_real_images_are_judged_by_the_networks_of_the_settings(monkeypatch):
    calls = []
    found = np.array([(511, 5.0, False), (512, 4.6, False), (900, 4.4, True)] * 20, ATTRIBUTES)
    for name in ("load_critic", "load_checker"):
        monkeypatch.setattr(e07, name, lambda where, name=name: calls.append((name, where)) or name)
    monkeypatch.setattr(e07, "measure_attributes", lambda images, *judges, desc: calls.append(judges) or found[:50])
    filters = {"aesthetic": "critic", "safety": "checker"}
    sets = e07.filter_sets(SETTINGS | {"filters": filters})
    assert calls[:2] == [("load_critic", "critic"), ("load_checker", "checker")]
    assert calls[2:] == [("load_critic", "load_checker")] * 2
    assert [own[:3].tolist() for own in sets["mini-items"].passed.values()] == [
        [False, True, True], [True, True, False], [True, True, False], [True, True, False], [False, True, False],
    ]  # fmt: skip


def test_table_2_of_the_paper_is_nearly_a_product():
    table = json.loads((data_dir() / "paper" / "tables.json").read_text())["table2_filter"]
    paper = e07.paper_shares(table)
    assert paper["ObjectNet"] == {"R": 98.8, "Q": 20.5, "F": 98.8, "Q+F": 20.3, "R+Q+F": 20.2}
    rows = e07.products(paper)
    assert all(abs(row["R times Q+F"] - row["R+Q+F"]) < 0.7 for row in rows.values())
    assert rows["Food101"]["R times Q+F"] == pytest.approx(0.615 * 90.5)
    divided = [name for name, row in paper.items() if 5 < row["R+Q+F"] < 90]
    assert divided == ["Food101", "ObjectNet"]
    sets = {"x": small_set([1, 0], [0, 1])}
    shown = e07.share_rows(sets, paper)
    assert list(shown) == ["x", *(f"paper: {name}" for name in paper)] and shown["x"]["R+Q+F"].value == 50
    assert e07.values({"x": sets["x"].shares()})["x"]["R+Q+F"] == 50


def test_the_density_of_what_training_has_shown():
    assert e07.density(1.2, sharp=2, seen=[1]) == pytest.approx(norm(2, 0.5).pdf(1.2))
    both = e07.density(0.9, sharp=2, seen=[1, 0.4])
    assert both == pytest.approx((norm(2, 0.5).pdf(0.9) + norm(0.8, 0.2).pdf(0.9)) / 2)


def test_groups_are_what_the_filter_does_and_why():
    groups = scores(np.ones((3, 2, 6)), kinds=range(6)).groups
    assert {name: np.flatnonzero(some).tolist() for name, some in groups.items()} == {
        "all": [0, 1, 2, 3, 4, 5],
        "kept": [0],
        "removed": [1, 2, 3, 4, 5],
        "16 pixels": [1],
        "8 pixels": [2],
        "low quality": [3, 5],
    }


def test_accuracies_and_gains_are_paired_by_training_and_image(many):
    accuracy, gains = e07.accuracies(many), e07.gains(many)
    assert list(accuracy) == list(gains) == list(many.groups) and list(accuracy["all"]) == list(ARMS)
    right = (many.errors.argmin(axis=3) == 1).astype(float)
    some = np.arange(60) % 6 != 0
    assert accuracy["removed"]["random"].value == pytest.approx(100 * right[2][:, some].mean())
    expected = crossed(100 * (right[1] - right[0])[:, some])
    found = gains["removed"]["unfiltered minus filtered"]
    assert tuple(found) == pytest.approx(tuple(expected)) and found.n == 50
    assert gains["all"]["random minus filtered"].value == pytest.approx(100 * (right[2] - right[0]).mean())
    alike = e07.gains(scores(np.stack([right[0]] * 3), kinds=list(range(6)) * 10))
    assert all(gain.value == 0 for own in alike.values() for gain in own.values())


def test_contrasts_are_those_of_the_claims(many):
    levels = {}
    found = e07.contrasts(many, lambda claim: levels.setdefault(claim, 0.9 if "keeps" in claim else 0.99))
    gains = {group: own["unfiltered minus filtered"].value for group, own in e07.gains(many).items()}
    assert {claim: round(own.value, 9) for claim, own in found.items()} == {
        "unfiltered-gains-on-removed": round(gains["removed"], 9),
        "unfiltered-gains-overall": round(gains["all"], 9),
        "unfiltered-keeps-the-kept": round(gains["kept"], 9),
        "selection-not-size": round(e07.gains(many)["removed"]["random minus filtered"].value, 9),
        "gain-is-where-the-filter-cuts": round(gains["removed"] - gains["kept"], 9),
    }
    assert {claim: own.level for claim, own in found.items()} == levels


def test_only_the_spread_within_groups_counts_for_the_difference_of_two_gains():
    right = np.zeros((3, 3, 400))
    kinds = [0, 1] * 200
    right[1, :, 1::2] = 1  # unfiltered is right on all removed images and on no kept one, filtered on none
    found = e07.contrasts(scores(right, kinds), lambda claim: 0.95)["gain-is-where-the-filter-cuts"]
    assert found.value == pytest.approx(100) and found.high - found.low < 3
    right[1:] = RNG.random((2, 1, 400)) < 0.5  # trainings that agree: two independent groups of images
    found = e07.contrasts(scores(right, kinds), lambda claim: 0.95)["gain-is-where-the-filter-cuts"]
    parts = [100 * right[1, 0, start::2] for start in (0, 1)]
    error = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    assert (found.high - found.low) / 2 == pytest.approx(1.97 * error, rel=0.02)


def test_answers_of_all_models_as_a_table(many):
    data = SimpleNamespace(labels=many.labels, groups=np.arange(60))
    field = e07.field(many, data)
    assert list(field.chosen) == [f"{arm}-{seed}" for arm in ARMS for seed in (1, 2, 3)]
    assert (field.chosen["unfiltered-3"] == many.errors[1, 2].argmin(axis=1)).all()
    assert len(field.columns("x")["predicted"]) == 9 * 60
    assert (many.of("mini-sd@crawl-random") == many.errors[2, 0]).all()


def test_scores_computed_anew_are_the_stored_ones(tiny_sd, tmp_path, monkeypatch):
    data, attributes = crawled(load_dataset("mini-items", n_images=3))
    trials = TrialList(uniform(4, 1000))
    whole = compute_errors(
        ErrorSource(tiny_sd, data.prompts_for(tiny_sd), trials, losses=("l2",)), data.images, desc=None
    )
    errors = np.zeros((3, 3, 3, 10), np.float32) + 1
    errors[2, 0] = whole.mean(axis=2)
    stored = e07.Scores(errors, data.labels, attributes)
    monkeypatch.setattr(tiny_sd, "name", "mini-sd@crawl-random")

    def bank(model, prompts, trials, **options):
        return ErrorBank(tmp_path, model, prompts, trials, seed=0, **options)

    fresh = e07.recompute(bank, [tiny_sd], data.first(2), 4)
    assert fresh["mini-sd@crawl-random"].shape == (2, 10) and e07.disagreement(stored, fresh) < 1e-5
    errors[2, 0, 1, 7] *= 1.01
    assert e07.disagreement(stored, fresh) == pytest.approx(0.01 / 1.01, rel=1e-2)


def test_stored_scores_are_read_or_missed_by_name(tmp_path, monkeypatch, many):
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"crawl.npz; `diffclf score crawl` writes them"):
        e07.load_scores()
    (tmp_path / "scores").mkdir()
    arrays = {"errors": many.errors, "labels": many.labels, "attributes": many.attributes}
    np.savez_compressed(tmp_path / "scores" / "crawl.npz", **arrays)
    found = e07.load_scores()
    assert all((getattr(found, name) == own).all() for name, own in arrays.items())


def test_the_committed_scores_are_of_the_crawled_test_images():
    found = e07.load_scores()
    data, attributes = crawled(load_dataset("mini-items", n_images=500))
    assert found.errors.shape == (len(ARMS), 3, 500, 10) and (found.errors > 0).all()
    assert (found.labels == data.labels).all() and (found.attributes == attributes).all()
    models = found.errors.reshape(9, -1)
    assert len(np.unique(models, axis=0)) == 9, "nine models"


def test_examples_are_the_first_of_their_class_and_group():
    images = [np.full((2, 2, 3), place, np.uint8) for place in range(6)]
    labels, names = np.array([0, 0, 1, 1, 0, 1]), ("bag", "boot")
    data = ImageSet("x", images, labels, names, {}, np.arange(6))
    own = e07.Scores(np.ones((3, 1, 6, 2)), labels, np.array([KINDS[i] for i in (1, 0, 0, 1, 1, 3)], ATTRIBUTES))
    rows = e07.examples(own, data, ["boot", "bag"])
    assert {name: [int(image[0, 0, 0]) for image in row] for name, row in rows.items()} == {
        "kept": [2, 1], "16 pixels": [3, 0], "8 pixels": [0, 0], "low quality": [5, 0],
    }  # fmt: skip


def test_classes_gain_and_lose_by_hand():
    labels = np.array([0, 0, 1, 1, 1, 0])
    chosen = np.zeros((3, 2, 6), int)
    chosen[1, :, 2:4] = 1
    own = e07.Scores(1.0 - np.eye(3)[chosen], labels, np.array([KINDS[i] for i in (1, 1, 1, 1, 0, 0)], ATTRIBUTES))
    rows = e07.class_gains(own, ("bag", "boot", "coat"))
    assert rows["boot"]["removed images"] == 2 and rows["boot"]["gain, removed"].value == 100
    assert rows["bag"]["gain, removed"].value == 0 and rows["bag"]["gain, kept"] is None
    assert rows["coat"] == {"removed images": 0, "gain, removed": None, "gain, kept": None}
    named = e07.answers_on(own, "16 pixels", ("bag", "boot", "coat"))
    assert named["boot"] == {"shown": 50, "filtered": 0, "unfiltered": 50, "random": 0}
    assert sum(row["filtered"] for row in named.values()) == 100


def test_a_sentence_for_each_group():
    gains = {"kept": {"a": Estimate(1, -1, 3), "b": Estimate(-3, -5, -1)}, "removed": {"a": Estimate(4, 2, 6)}}
    assert e07.reading(gains) == [
        "kept: a 1.0 [-1.0, 3.0], not told apart; b -3.0 [-5.0, -1.0], less accurate",
        "removed: a 4.0 [2.0, 6.0], more accurate",
    ]


def test_figures_show_their_numbers(many):
    shares = {"x": dict.fromkeys(FILTERS, Estimate(40, 30, 55)), "y": dict.fromkeys(FILTERS, Estimate(10, 5, 15))}
    paper, classes = {"Pets": dict.fromkeys(FILTERS, 1.1)}, {f"c{i:02d}": shares["x"] for i in range(20)}
    drawn = shares, paper, classes, "z"
    fig = nb07.share_panels(*drawn)
    left, middle, right = fig.axes
    lines = [line for line in left.lines if line.get_marker() == "o"]
    assert lines[0].get_xdata().tolist() == [40, 10]
    assert [tick.get_text() for tick in right.get_yticklabels()] == [f"c{i:02d}" for i in (*range(6), *range(14, 20))]
    assert [tick.get_text() for tick in middle.get_yticklabels()] == ["Pets"]
    assert "x 40.0, 40.0, 40.0; y 10.0" in nb07.share_panels_alt(*drawn) and "Pets 1.1" in nb07.share_panels_alt(*drawn)
    drawn = e07.accuracies(many), e07.gains(many), 100 / 3
    left, right = nb07.arm_panels(*drawn).axes
    assert left.get_legend_handles_labels()[1] == list(ARMS) and "33.3" in left.get_ylabel()
    assert right.get_legend_handles_labels()[1] == list(e07.GAINS)
    values = [container.lines[0].get_ydata()[2] for container in right.containers]
    assert values == pytest.approx([gain.value for gain in e07.gains(many)["removed"].values()])
    removed = e07.accuracies(many)["removed"]["filtered"]
    assert f"removed: filtered {removed.value:.1f}" in nb07.arm_panels_alt(*drawn)
    grid = {"kept": [np.zeros((2, 2, 3), np.uint8)], "8 pixels": [np.ones((2, 2, 3), np.uint8)]}
    assert len(nb07.example_grid(grid, ["bag"]).axes) == 2
    assert nb07.example_grid_alt(grid, ["bag"]).startswith(
        "Pictures of bag, a row for each of the groups kept, 8 pixels."
    )
