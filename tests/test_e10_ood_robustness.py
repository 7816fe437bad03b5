"""Accuracy under distribution shift and the shortcut, on made-up answers."""

from dataclasses import replace
from functools import partial
from math import inf

import numpy as np
import pytest
from scipy.special import expit, logit
from tiny import save_tiny_dit

from diffclf import Exhaustive, Racing
from diffclf.bank import ErrorBank
from diffclf.baselines.supervised import SupervisedClassifier, load_supervised
from diffclf.datasets import imageset, load_dataset
from diffclf.datasets.imageset import ImageSet
from diffclf.experiments import answers
from diffclf.experiments import e10_ood_robustness as e10
from diffclf.experiments.e05_objectives import LossErrors
from diffclf.experiments.field import Field, short
from diffclf.experiments.robustness import Line, _resampled_shares, effective_robustness, fit_line, paper_row, points
from diffclf.experiments.shortcut import Shortcut, architecture, ask
from diffclf.experiments.sweep import run_once
from diffclf.mini.export import export_classifier
from diffclf.mini.supervised import build_resnet
from diffclf.models import load_model
from diffclf.workbook.claims import VERDICTS, judge, read_claims

SIZES = {"n_classes": 10, "n_trials": 25, "n_seeds": 3, "race_trials": 16, "pruning": "race", "n_images": 5}
SIZES |= {"sets": {"V2": "v", "A": "f", "O": "o"}, "filters": {"ResNet": "f", "ViT": "g"}, "n_corrupted": 2}
SIZES |= {"corruptions": ["noise", "blur"], "severities": [1, 3, 5], "generative": ["a", "b"], "n_shortcut": 7}
FAMILIES = {"r": "ResNet", "s": "ResNet", "v": "ViT"}


def field(right, groups=None):
    """Answers to images of class 0 from name -> list of 1 (right) and 0 (class 1)."""
    n = len(next(iter(right.values())))
    chosen = {name: 1 - np.array(values) for name, values in right.items()}
    return Field(np.zeros(n, dtype=np.int64), np.arange(n) if groups is None else np.array(groups), chosen)


def counts(n, **k):
    """Answers to n images with k right answers of each classifier."""
    return field({name: [1] * right + [0] * (n - right) for name, right in k.items()})


def images(labels, classnames=("x", "y", "z"), indices=None):
    labels = np.array(labels)
    prompts = {name: f"a photo of a {name}" for name in classnames}
    return ImageSet(
        "set", [f"{i}" for i in range(len(labels))], labels, classnames, prompts, labels + 10, None, indices
    )


def test_evaluations_by_hand():
    race = 10 * 8 + 2 * 8
    assert e10.evaluations(SIZES) == (3 * 5 * 4 + 2 * 3 * 2 + 2 * 2 * 7) * race
    paper = SIZES | {"pruning": "exhaustive", "n_classes": 1000, "sets": {"V2": "v", "A": "a", "O": "o"}}
    assert e10.evaluations(paper) == 3 * 5 * 5 * 1000 * 25 + (2 * 3 * 2 + 2 * 2 * 7) * race


def test_names_keep_the_version_and_lose_owner_and_revision():
    names = ("mini-resnet-m@2", "facebook/DiT-XL-2-256@refs/pr/1", "microsoft/resnet-50", "")
    assert [short(name) for name in names] == ["mini-resnet-m@2", "DiT-XL-2-256", "resnet-50", ""]


def test_a_line_is_straight_on_logits():
    x = np.array([0.3, 0.5, 0.6, 0.9])
    line = fit_line(x, expit(0.7 * logit(x) - 1), filter_accuracy=0.55)
    assert (line.intercept, line.slope) == (pytest.approx(-1), pytest.approx(0.7)) and np.isnan(line.knot)
    assert line([0.5, 0.8]) == pytest.approx(expit([-1, 0.7 * np.log(4) - 1]))


def test_a_break_needs_four_networks_on_each_side_of_the_filter():
    x = np.array([0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95])
    true = Line(-1.0, 0.5, 2.0, float(logit(0.6)))
    found = fit_line(x, true(x), 0.6)
    assert [found.intercept, found.slope, found.bend] == pytest.approx([-1, 0.5, 2])
    assert found(0.6) == pytest.approx(expit(0.5 * logit(0.6) - 1)) and found.knot == true.knot
    for few in (x[1:], x[:-1]):
        assert np.isnan(fit_line(few, true(few), 0.6).knot)


def test_resamples_are_the_same_for_all_and_draw_whole_photographs():
    right = np.array([[1, 1, 1], [0, 0, 1], [0, 0, 1], [1, 1, 1]], dtype=bool)
    shares = _resampled_shares(right, np.array([7, 7, 9, 9]), np.random.default_rng(0), 50)
    assert shares[0] == pytest.approx([2.5 / 5, 2.5 / 5, 4.5 / 5])
    assert np.array_equal(shares[:, 0], shares[:, 1]) and set(shares[:, 2]) == {0.9}
    assert set(shares[:, 0]) == {0.5}, "each photograph has one right answer of two"
    own = _resampled_shares(right[:, :1], np.arange(4), np.random.default_rng(0), 500)[1:, 0]
    assert own.mean() == pytest.approx(0.5, abs=0.03) and own.std() == pytest.approx(4 * 0.25 / 5, abs=0.02)


def test_effective_robustness_is_the_distance_from_the_line():
    inside = counts(99, a=49, b=79, dit=59, f=60)
    outside = counts(49, a=9, b=24, dit=30, f=0)
    found = effective_robustness(inside, outside, "dit", ["a", "b"], "f")
    line = fit_line(np.array([49.5, 79.5]) / 100, np.array([9.5, 24.5]) / 50)
    assert (found.x, found.y) == (pytest.approx(0.595), pytest.approx(0.61))
    assert found.estimate.value == pytest.approx(100 * (0.61 - line(0.595)))
    assert found.estimate.low < found.estimate.value < found.estimate.high and found.estimate.n == 49
    assert found.row()["line there"] == pytest.approx(100 * line(0.595)) and found.row()["extrapolated"] == "no"
    wider = effective_robustness(inside, outside, "dit", ["a", "b"], "f", level=0.99).estimate
    assert wider.low < found.estimate.low and wider.high > found.estimate.high and wider.level == 0.99


def test_a_classifier_that_answers_as_a_network_on_the_line_has_none():
    rng = np.random.default_rng(0)
    inside, outside = (field({n: rng.random(40) < p for n, p in (("a", 0.5), ("b", 0.8))}) for _ in range(2))
    inside, outside = (Field(f.labels, f.groups, f.chosen | {"dit": f.chosen["a"]}) for f in (inside, outside))
    found = effective_robustness(inside, outside, "dit", ["a", "b"], "a", n_resamples=200)
    assert list(found.estimate) == pytest.approx([0, 0, 0], abs=1e-9)


def test_beyond_the_networks_the_interval_is_unbounded():
    for right in (48, 80):
        inside = counts(99, a=49, b=79, dit=right, f=60)
        found = effective_robustness(inside, inside, "dit", ["a", "b"], "f", n_resamples=100)
        assert (found.estimate.low, found.estimate.high) == (-inf, inf) and "extrapolated" in found.words


def test_a_changed_number_changes_the_verdict():
    claims = read_claims("10_ood_robustness")

    def verdict(name, right):
        inside, outside = counts(400, a=200, b=360, dit=320, f=300), counts(400, a=60, b=200, dit=right, f=0)
        found = effective_robustness(inside, outside, "dit", ["a", "b"], "f", claims[name].level, n_resamples=300)
        return judge(claims[name], found.estimate)

    line = fit_line(np.array([200.5, 360.5]) / 401, np.array([60.5, 200.5]) / 401)
    on_it = round(400 * float(line(0.8)))
    for right, robust, same in ((on_it, 1, 2), (on_it + 100, 0, 1), (on_it - 100, 1, 1)):
        expected = VERDICTS[2] if right == on_it else VERDICTS[robust]
        assert verdict("robust-on-a", right) == expected
        assert verdict("not-robust-on-v2", right) == VERDICTS[same]


def test_points_have_clopper_and_pearsons_interval_and_count_photographs_once():
    twice = Field(np.zeros(20, dtype=np.int64), np.tile(np.arange(10), 2), {"a": np.ones(20, dtype=np.int64)})
    x, y = points(twice, counts(10, a=10), ["a"])["a"]
    assert x.value == 0.5 / 11 and x.low == 0 and x.high == pytest.approx(1 - 0.0025 ** (1 / 10)) and x.n == 10
    assert y.value == 10.5 / 11 and y.low == pytest.approx(0.0025 ** (1 / 10))


def test_the_papers_row():
    assert paper_row({"x": 92.0, "y": 20.3, "line": 4.5})["effective robustness"] == 15.8


def test_images_are_restricted_to_the_classes_of_another_set():
    data, other = images([0, 1, 2, 2]), images([0], ("z", "x"))
    kept = answers.restricted(data, other)
    assert (
        kept.labels.tolist() == [1, 0, 0]
        and list(kept.images) == ["0", "2", "3"]
        and kept.groups.tolist() == [10, 12, 12]
    )
    assert kept.classnames == ("z", "x") and list(kept.prompts) == ["z", "x"]
    assert answers.restricted(data, images([0])) is data
    data = images([0, 1, 2], indices={5: 0, 6: 1, 7: 2})
    by_index = answers.restricted(data, images([0], ("six",), {6: 0}))
    assert by_index.labels.tolist() == [0] and list(by_index.images) == ["1"] and by_index.indices == {6: 0}
    several = answers.restricted(data, images([0], ("other", "five or seven"), {3: 0, 7: 1, 5: 1}))
    assert several.labels.tolist() == [1, 1] and list(several.images) == ["0", "2"]


def test_a_class_that_is_several_of_the_networks_scores_as_the_best_of_them(monkeypatch, tmp_path):
    """A DiT of three classes, and a set in which the first two of them are one class."""
    model, labels = load_model(save_tiny_dit(tmp_path / "dit", labels=["a", "b", "c"])), ["a", "b", "c"]
    monkeypatch.setattr(imageset, "IMAGENET", 3)
    rng = np.random.default_rng(0)
    pixels, prompts = [*rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)], {"x": "an x", "y": "a y"}
    truth = np.arange(12) % 2
    data = ImageSet("set", pixels, truth, ("x", "y"), prompts, np.arange(12), indices={0: 0, 1: 0, 2: 1})
    trials = Exhaustive(4).trial_list(len(model.schedule))
    bank = ErrorBank(tmp_path / "bank", model, data.prompts_for(model), trials, losses=("l2",))
    errors = bank.errors(data.images).mean(axis=2, dtype=np.float64)
    expected = np.stack([errors[:, :2].min(axis=1), errors[:, 2]], axis=1)
    outcome = run_once(bank, data, Exhaustive(4))
    np.testing.assert_allclose(-outcome.scores, expected, rtol=1e-6)
    assert outcome.chosen.tolist() == expected.argmin(axis=1).tolist()
    assert {0, 1} <= set(errors.argmin(axis=1)), "each of the two is the best on some image"
    run = LossErrors({"l2": bank.errors(data.images)}, truth, np.arange(12), data.owners(labels))
    assert run.right("l2").tolist() == outcome.right.tolist() == (expected.argmin(axis=1) == truth).tolist()


def test_a_network_answers_with_the_largest_logit_of_a_class():
    data = images([0], ("x", "y"), {4: 0, 2: 1, 7: 0})
    logits = np.zeros((2, 1000))
    logits[:, [4, 2, 7, 9]] = [[1.0, 3.0, 4.0, 9.0], [1.0, 3.0, 2.0, 9.0]]
    network = object.__new__(SupervisedClassifier)
    network.labels, network.logits = tuple(map(str, range(1000))), lambda items, size: logits
    odds = np.exp([[4.0, 3.0], [2.0, 3.0]])
    np.testing.assert_allclose(network.probabilities(data), odds / odds.sum(axis=1, keepdims=True))
    assert network.predict(data).tolist() == [0, 1]


def test_a_set_may_be_what_a_filter_leaves():
    class Filter:
        def probabilities(self, data):
            return np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])

    left = {"ViT": answers.left_by(Filter(), images([0, 1, 2]))}
    assert list(left["ViT"].images) == ["0"]
    assert list(answers.left_by(Filter(), images([0, 1, 2]), 1.0).images) == ["0", "2"]
    sets = answers.shifted_sets({"O": "place", "A": "me/f"}, {"ViT": "me/f"}, left, lambda name: f"loaded {name}")
    assert sets == {"O": "loaded place", "A": left["ViT"]}


def test_rows_of_the_filters_leave_filters_out():
    given = field({"r": [1, 1, 0, 0], "s": [1, 0, 0, 0], "v": [1, 1, 1, 0], "dit": [0, 1, 1, 0]})
    families = FAMILIES | {"dit": "DiT"}
    rows = e10.filter_rows({"ResNet": given, "ViT": given}, families, {"ViT": "me/r"}, {"ResNet": "v", "ViT": "r"})
    row = rows["ResNet filter"]
    assert (row["ResNet"].value, row["ViT"].value, row["DiT"].value, row["images"]) == (25, 75, 50, 4)
    assert row["same architecture"].value == 75 and rows["ViT filter"]["same architecture"] is None
    assert row["all wrong"].value == 25 and e10.all_wrong(given, ["r", "s"]).value == 50


def test_the_filters_family_is_a_contrast_of_contrasts():
    by_resnet = field({"r": [0, 0, 1, 0], "s": [0, 0, 1, 0], "v": [1, 1, 0, 1]}, [1, 2, 3, 4])
    by_vit = field({"r": [1, 0], "s": [0, 1], "v": [0, 1]}, [4, 5])
    found = e10.filter_interaction({"ResNet": by_resnet, "ViT": by_vit}, FAMILIES)
    assert found.value == pytest.approx(100 * ((0.75 - 0.25) - (0.5 - 0.5))) and found.n == 5
    assert [e10.vits_ahead(each, FAMILIES).value for each in (by_resnet, by_vit)] == pytest.approx([50, 0])
    by_resnet = field({"r": [0, 0, 1, 0] * 2, "s": [0, 0, 1, 0] * 2, "v": [1, 1, 0, 1] * 2}, range(8))
    same = e10.filter_interaction({"ResNet": by_resnet, "ViT": by_resnet}, FAMILIES)
    assert list(same) == pytest.approx([0, 0, 0]), "a photograph in both sets is drawn in both"


def test_tables_corruptions_gallery_and_weights():
    clean, noisy = field({"r": [1, 1], "s": [1, 0], "v": [1, 1]}), field({"r": [0, 1], "s": [0, 0], "v": [1, 0]})
    curves = e10.corruption_curves({("", 0): clean, ("noise", 3): noisy, ("blur", 3): clean}, FAMILIES)
    assert list(curves) == ["noise", "blur"]
    severities, estimates = curves["noise"]["ResNet"]
    assert severities == [0, 3] and [e.value for e in estimates] == [75, 25]
    rows = e10.accuracy_rows({"test": clean, "O": noisy}, FAMILIES)
    assert rows["s"]["family"] == "ResNet" and rows["s"]["test"].value == 50 and rows["s"]["O"].value == 0
    data = replace(images([0, 0]), images=list(np.full((2, 4, 4, 3), 9, dtype=np.uint8)))
    (image, true, chosen), _ = e10.gallery(data, noisy, {"the ViT": "v"}, n=2)
    assert (image.getpixel((0, 0)), true, chosen) == ((9, 9, 9), "x", {"the ViT": "x"})
    mixed = Field(np.array([0, 0, 0, 1]), np.arange(4), {"a": np.array([0, 0, 1, 1])})
    found = e10.weights(mixed, Field(np.array([0, 1, 1, 1]), np.arange(4), {}))
    assert np.average(mixed.right("a"), weights=found) == pytest.approx(0.25 * 2 / 3 + 0.75)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A DiT and a ResNet that know the ten items, and where their bank is."""
    folder = tmp_path_factory.mktemp("small")
    from diffclf.datasets.world import ITEMS

    export_classifier(build_resnet((8, 16)), folder / "resnet")
    dit = load_model(str(save_tiny_dit(folder / "dit", labels=ITEMS)), device="cpu")
    return dit, load_supervised(folder / "resnet", "cpu"), partial(ErrorBank, folder / "bank")


def test_everybody_answers_on_the_same_images(small):
    dit, network, bank = small
    judges = answers.Judges(dit, bank, {"net": network}, Racing(trials=16), seeds=(0, 1))
    test, new = load_dataset("mini-items", n_images=3), load_dataset("mini-o", n_images=4)
    whole, inside, shifted = answers.answer_all(judges, test, {"O": new}, n_images=2)
    assert inside["O"] is whole and whole.labels.tolist() == np.tile(test.labels, 2).tolist()
    assert shifted["O"].chosen["net"].tolist() == np.tile(network.predict(new)[:2], 2).tolist()
    assert set(shifted["O"].chosen) == {"net", judges.name}
    changed = answers.corrupted(judges, test.first(1), ["blur"], [1, 5])
    assert list(changed) == [("", 0), ("blur", 1), ("blur", 5)] and len(changed["blur", 5].labels) == 2
    assert e10.largest({"net": network}, "ResNet") == "net"


def test_both_kinds_are_asked_about_the_same_photographs(small):
    dit, network, bank = small
    own, other = (load_dataset(f"mini-{c}-colour", n_images=2) for c in ("own", "other"))
    found = ask({"g-1": dit}, {"d-1": network}, own, other, bank, Racing(trials=16))
    assert found.kinds == {"g-1": "generative", "d-1": "discriminative"}
    assert found.disagree["d-1"].tolist() == (network.predict(other) == own.labels).tolist()
    assert found.agree["g-1"].shape == (2,)
    with pytest.raises(ValueError, match="photographs of mini-v2 must be those of mini-own-colour"):
        ask({}, {}, own, load_dataset("mini-v2", n_images=2), bank, Racing(trials=16))


KINDS = {"shortcut-dit-1": "generative", "shortcut-vit-s-8-1": "discriminative", "shortcut-vit-s-8-2": "discriminative"}
AGREE = dict(zip(KINDS, np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=bool), strict=True))
DISAGREE = dict(zip(KINDS, np.array([[1, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]], dtype=bool), strict=True))
TRAP = Shortcut(KINDS, AGREE, DISAGREE, np.array([0, 0, 1, 1]), np.arange(4))


def test_shortcut_contrasts_are_paired_means_over_a_kind():
    assert TRAP.difference().value == pytest.approx(75 - 37.5)
    assert TRAP.drop_difference(level=0.9).value == pytest.approx(62.5) and TRAP.drop_difference(0.9).level == 0.9
    assert architecture("shortcut-vit-s-8-2") == "vit-s-8"
    found = TRAP.by_architecture()["vit-s-8"]
    assert [e.value for e in found["accuracy"]] == [100, 37.5] and found["seeds"] == [[100, 50], [100, 25]]


def test_the_worst_group_is_named_with_its_size():
    rows = TRAP.rows(("boot", "bag"))
    assert rows["shortcut-dit-1"]["worst group"] == "bag, agree" and rows["shortcut-dit-1"]["accuracy"].value == 50
    row = rows["shortcut-vit-s-8-2"]
    assert (row["worst group"], row["accuracy"].value, row["n"]) == ("boot, disagree", 0, 2)
    assert row["drop"].value == 75
