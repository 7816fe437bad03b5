"""Notebook 06's numbers: accuracies, paired tests and calibration with known answers."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffclf.baselines.features import FeatureClassifier, Head
from diffclf.datasets import ImageSet
from diffclf.experiments import e06_zero_shot as e06
from diffclf.experiments.field import Field
from diffclf.experiments.sweep import Outcome
from diffclf.stats import Estimate
from diffclf.temperature import fit_temperature
from diffclf.workbook.claims import claim_record, read_claims
from diffclf.workbook.plots import nb06

OTHER = "CLIP ResNet-50"


def task(labels, per_class=False, groups=None, **chosen):
    """A task with answers; `ours` and `theirs` are positions of the chosen classes."""
    labels = np.asarray(labels)
    names = tuple("abcdefgh"[: labels.max() + 1])
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    data = ImageSet("made up", [None] * len(labels), labels, names, dict.fromkeys(names, ""), groups)
    ours, theirs = (np.asarray(chosen.get(name, labels)) for name in ("ours", "theirs"))
    field = Field(labels, groups, {e06.OURS: ours, OTHER: theirs})
    return e06.Answers(data, Outcome(ours, ours == labels, np.ones(len(labels))), field, per_class)


# Accuracies


def test_accuracy_is_a_share_or_a_mean_over_classes():
    labels, ours = [0, 0, 0, 1], [0, 0, 0, 0]
    assert e06.accuracy(task(labels, ours=ours), e06.OURS).value == 75
    assert e06.accuracy(task(labels, per_class=True, ours=ours), e06.OURS).value == pytest.approx(50)
    assert e06.accuracy(task(labels, per_class=True), e06.OURS).value == pytest.approx(100)
    wide = e06.accuracy(task(labels, ours=ours), e06.OURS)
    assert 100 * np.array([wide.low, wide.high]) / 100 == pytest.approx([19.412, 99.369], abs=1e-3)  # exact, 3 of 4


def test_a_mean_over_classes_stays_between_0_and_100():
    labels = np.arange(40) % 4
    for ours, value in ((labels, 100), ((labels + 1) % 4, 0)):
        found = e06.accuracy(task(labels, per_class=True, ours=ours), e06.OURS)
        assert found.value == pytest.approx(value) and 0 <= found.low < found.high <= 100


def test_a_class_without_an_image_does_not_count():
    assert e06.accuracy(task([0, 0, 2], per_class=True, ours=[0, 1, 2]), e06.OURS).value == pytest.approx(75)


def test_every_task_has_the_same_weight_in_the_mean_difference():
    labels = np.arange(60) % 2
    few, many = task(labels[:20], theirs=1 - labels[:20]), task(labels, ours=labels)
    found = e06.mean_difference({"few": few, "many": many}, e06.OURS, OTHER)
    assert found.value == pytest.approx((100 + 0) / 2)
    assert e06.mean_difference({"few": few, "many": many}, OTHER, e06.OURS).value == pytest.approx(-50)
    assert e06.mean_difference({"few": few}, e06.OURS, OTHER, 0.99).level == 0.99


def test_paired_tests_are_mcnemars_with_holm():
    labels = np.zeros(40, int)
    ours, theirs = np.repeat([0, 1], [36, 4]), np.repeat([1, 0], [10, 30])
    rows = e06.paired_rows({"one": task(labels, ours=ours, theirs=theirs), "two": task(labels)}, [e06.OURS, OTHER])
    assert [row["task"] for row in rows] == ["one", "two"] and rows[0]["opponent"] == OTHER
    assert rows[0]["only we are right"] == 10 and rows[0]["only they are"] == 4
    assert rows[0]["p"] == pytest.approx(0.1796, abs=1e-4)  # binomial, 4 or fewer of 14, twice
    assert rows[0]["p, Holm"] == pytest.approx(2 * rows[0]["p"]) and rows[1]["p"] == rows[1]["p, Holm"] == 1
    assert rows[0]["difference"].value == pytest.approx(100 * 6 / 40)


def test_the_reading_names_tasks_that_are_told_apart():
    labels = np.zeros(100, int)
    tasks = {"easy": task(labels), "hard": task(labels, ours=np.repeat([0, 1], [20, 80]))}
    rows = [e06.OURS, OTHER]
    means, rest, against = e06.reading(tasks, rows, e06.paired_rows(tasks, rows))
    assert rest == f"Means over the tasks without hard: {e06.OURS} 100.0, {OTHER} 100.0 points."
    assert means == f"Means over 2 tasks: {e06.OURS} 60.0, {OTHER} 100.0 points."
    assert against == f"Against {OTHER} the diffusion classifier is less accurate on hard (Holm, 5%)."
    tasks["hard"] = task(labels, theirs=np.repeat([0, 1], [20, 80]))
    assert "is more accurate on hard (Holm" in e06.reading(tasks, rows, e06.paired_rows(tasks, rows))[-1]
    tasks["hard"] = task(labels)
    assert "is not told apart on any task" in e06.reading(tasks, rows, e06.paired_rows(tasks, rows))[-1]


@pytest.mark.parametrize(("wrong", "verdict"), [(0, "undecided"), (40, "does not hold"), (-40, "holds")])
def test_a_changed_number_changes_the_verdict(wrong, verdict):
    labels = np.zeros(200, int)
    answers = np.repeat([0, 1], [200 - abs(wrong), abs(wrong)])
    chosen = {"ours": answers} if wrong > 0 else {"theirs": answers}
    claim = read_claims("06_zero_shot")["above-synthetic-data"]
    found = e06.mean_difference({"one": task(labels, **chosen)}, e06.OURS, OTHER, claim.level)
    assert claim_record(claim, found, profile="mini", world="", verdicts=True)["verdict"] == verdict


def test_the_head_is_a_row_of_table_11():
    columns = ["conv1", "conv2", "conv3 x2", "conv4 x2", "conv5 x2"]
    table = {"columns": columns, "rows": {"ResNet-18": ["7x7x64", None, "a", "b", "c"]}}
    network = FeatureClassifier(SimpleNamespace(device="cpu"), Head(8, 3), ["x", "y", "z"], "made up")
    paper, ours = e06.head_rows({"SD features": network}, table)
    assert paper == {"network": "ResNet-18"} | dict(zip(columns, ["7x7x64", "-", "a", "b", "c"], strict=True))
    assert ours == {"network": "this run"} | dict(
        zip(columns, ["3x3x10", "-", "3x3x10", "3x3x20", "3x3x20"], strict=True)
    )
    assert len(e06.head_rows({}, table)) == 1


# Templates


def test_a_template_makes_the_prompts_and_the_ensemble_averages_scores():
    data = task([0, 1]).data
    assert e06.with_template(data, "an {}!").prompts == {"a": "an a!", "b": "an b!"}
    scores = {"{}": [[0.0, -1], [0, -1]], "a {}": [[-9.0, 0], [-9, 0]]}

    def score(asked):
        return np.array(scores[asked.prompts["a"].replace("a", "{}", 1) if asked.prompts["a"] == "a" else "a {}"])

    found = e06.template_answers(score, data, list(scores), {})
    assert list(found) == [e06.OURS] and list(found[e06.OURS]) == ["{}", "a {}", "ensemble"]
    assert [each.tolist() for each in found[e06.OURS].values()] == [[True, False], [False, True], [False, True]]
    gain = e06.ensemble_gain(found[e06.OURS], data.groups, 0.9)
    assert gain.value == 0 and gain.level == 0.9
    assert e06.template_accuracies(found, data.groups)[e06.OURS]["{}"].value == 50


def test_a_further_class_is_the_last_one():
    more = e06.with_class(task([0, 1]).data, "dog", "a dog")
    assert more.classnames == ("a", "b", "dog") and more.prompts["dog"] == "a dog" and more.tree == {}


# Probabilities


def test_the_three_kinds_of_probabilities():
    scores = np.array([[-0.1, -0.1 - np.log(3) / 8]])
    found = e06.probabilities(scores, n_elements=8, temperature=2.0)
    assert found["Eq. 6 as printed"][0] == pytest.approx([3 / 4, 1 / 4])
    root = 3 ** (1 / 8)
    assert found["official code"][0] == pytest.approx([root / (1 + root), 1 / (1 + root)])
    assert found["fitted temperature"][0, 0] == pytest.approx(3**0.5 / (1 + 3**0.5))


def test_scores_of_probabilities():
    p, labels = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 1])
    assert e06.log_loss(p, labels) == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2)
    assert e06.brier(p, labels) == pytest.approx((0.25 + 0.25 + 0.81 + 0.81) / 2)
    assert e06.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-300))


def test_bins_have_equal_mass_and_the_error_is_their_mean_gap():
    p = np.array([[0.6, 0.4]] * 10 + [[0.9, 0.1]] * 10)
    labels = np.array([0] * 5 + [1] * 5 + [0] * 10)
    confidence, accuracy = e06.reliability(p, labels, n_bins=2)
    assert confidence == pytest.approx([60, 90]) and [each.value for each in accuracy] == [50, 100]
    assert e06.ece(p, labels, n_bins=2) == pytest.approx((0.1 + 0.1) / 2)
    assert e06.ece(p[:3], labels[:3]) == pytest.approx(0.4)  # fewer images than bins


def test_calibrated_samples_have_a_small_error_and_a_sharper_softmax_a_large_one():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((3000, 4)) / 10
    p = e06.probabilities(scores, 10, 1.0)["Eq. 6 as printed"]
    labels = (rng.random((3000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    tables = e06.probabilities(5 * scores, 10, 5.0)
    assert e06.ece(tables["fitted temperature"], labels) < 0.03 < 0.3 < e06.ece(tables["Eq. 6 as printed"], labels)
    gain = e06.calibration_gain(tables, labels, np.arange(3000), 0.95)
    assert gain.low > 20
    rows = {row["probabilities"]: row for row in e06.calibration_rows(tables, labels, np.arange(3000))}
    assert rows["fitted temperature"]["NLL"].high < rows["Eq. 6 as printed"]["NLL"].low
    said = e06.calibration_reading(tables, labels, 5.0)
    assert "too sure" in said[1] and "not told apart" in said[3]
    two = e06.calibration_reading(e06.probabilities(5 * scores[:2], 10, 5.0), labels[:2], 5.0)
    assert "not told apart" in two[1]  # one of two images is right: 1.3 to 98.7 points


def test_coverage_keeps_the_most_confident_images_and_shares_ties():
    confidence, right = np.arange(10.0), np.array([False] * 5 + [True] * 5)
    curve = e06.coverage_curve(confidence, right, np.arange(10))
    assert [each.value for each in curve] == pytest.approx([100] * 5 + [100 * 5 / k for k in range(6, 11)])
    assert all(0 <= each.low <= each.value <= each.high <= 100 for each in curve)
    tied = e06.coverage_curve(np.zeros(10), right, np.arange(10))
    assert [each.value for each in tied] == pytest.approx([50] * 10)
    signals = e06.confidences(
        Outcome(np.zeros(2), np.ones(2, bool), np.array([10, 90]), np.array([[-1.0, -3, -2], [-2.0, -2, -5]])),
        np.array([[0.7, 0.1, 0.2], [0.45, 0.45, 0.1]]),
    )
    assert {name: signal.tolist() for name, signal in signals.items()} == {
        "probability": [0.7, 0.45],
        "margin of the errors": [1.0, 0.0],
        "few evaluations": [-10.0, -90.0],
    }


def test_evaluations_grow_with_every_size():
    settings = {"n_images": 10, "n_tune": 5, "race_trials": 128, "templates": ["{}"]}
    settings["tasks"] = {"a": {"n_classes": 10}, "b": {"n_classes": 60}}
    cost = e06.evaluations(settings)
    assert cost == 10 * (80 + 120) + 10 * (160 + 96 + 120) + (10 + 5) * 200
    for name in ("n_images", "n_tune", "race_trials"):
        assert e06.evaluations(settings | {name: 2 * settings[name]}) > cost


def test_a_temperature_that_cannot_be_fitted_is_one_with_a_word():
    data = task([0, 1, 0]).data
    right = np.eye(2)[data.labels]
    with pytest.warns(UserWarning, match="the temperature stays 1: .* 100% right of 3"):
        assert e06.fitted_temperature(lambda data: right, data, 8) == 1
    some = np.array([[2.0, 0], [0, 2], [0, 1]])
    fitted = e06.fitted_temperature(lambda data: some, data, 8)
    assert fitted == pytest.approx(fit_temperature(8 * some, data.labels))


def test_figures_say_their_numbers():
    ours, paper = {"a": {"mini-items": 81.25}}, {"a": {"Food101": 77.7}}
    figure = nb06.heat_map(ours, paper)
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == ["81.2", "77.7"]
    assert "mini-items 81.2" in nb06.heat_map_alt(ours, paper) and "Food101 77.7" in nb06.heat_map_alt(ours, paper)
    found = {"a": {"a {}": Estimate(50, 40, 60), "ensemble": Estimate(55, 45, 65)}}
    ax = nb06.template_dots(found).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["“a {}”", "ensemble"]
    assert "a: a {} 50.0 [40.0, 60.0], ensemble 55.0 [45.0, 65.0]" in nb06.template_dots_alt(found)
    bins = {"one": (np.array([60.0, 90.0]), [Estimate(50, 40, 60), Estimate(100, 90, 100)])}
    ax = nb06.reliability_panels({**bins, "two": bins["one"]}).axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [100, 100]]
    assert ax.lines[1].get_xydata().tolist() == [[60, 50], [90, 100]]
    assert "one: 60: 50, 90: 100" in nb06.reliability_panels_alt(bins)
    curve = {"margin": [Estimate(90, 80, 95), Estimate(70, 60, 80)]}
    ax = nb06.coverage_curves(np.array([0.5, 1.0]), curve, 70.0).axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[49.2, 90], [99.2, 70]]
    assert "50% 90.0, 100% 70.0" in nb06.coverage_curves_alt(np.array([0.5, 1.0]), curve, 70.0)
