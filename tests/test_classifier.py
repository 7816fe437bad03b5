"""The classifier's interface: the shape of answers, a table that anyone can recompute, scikit-learn's tools."""

import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from test_evaluator import Wrapped
from test_search import noise_images
from tiny import DIT_LABELS

from diffclf import DiffusionClassifier, Exhaustive, Hierarchical, Racing, Staged
from diffclf.datasets import load_dataset
from diffclf.temperature import fit_temperature

PROMPTS = {"sneaker": "a photo of a sneaker", "bag": ["a photo of a bag", "a bag"], "coat": "a coat"}
FEW = Exhaustive(6)
STAGED = Staged((2, 8), (2, 1))
IMAGES = noise_images(5, 32)


@pytest.fixture(scope="module")
def points(gaussian):
    """Images and labels drawn from the Gaussian classes."""
    x0, drawn = gaussian.sample(60, torch.Generator().manual_seed(0))
    colours = torch.cat([x0.flatten(1), torch.zeros(60, 1)], dim=1).clamp(-1, 1) * 127.5 + 127.5
    return colours.round().to(torch.uint8).numpy().reshape(60, 1, 1, 3), np.array(gaussian.labels)[drawn]


# Answers


@pytest.mark.parametrize("pruning", [FEW, STAGED, Staged((2, 8), (2, 1), "nested", repeats=2)])
def test_answers_have_the_shape_of_an_estimators(tiny_sd, pruning):
    clf = DiffusionClassifier(tiny_sd, PROMPTS, pruning=pruning)
    assert clf.classes_.tolist() == ["sneaker", "bag", "coat"]
    names, scores, proba = clf.predict(IMAGES), clf.decision_function(IMAGES), clf.predict_proba(IMAGES)
    assert names.shape == (5,) and scores.shape == proba.shape == (5, 3)
    assert (names == clf.classes_[scores.argmax(1)]).all() and (names == clf.classes_[proba.argmax(1)]).all()
    np.testing.assert_allclose(proba.sum(1), 1)
    tables = list(clf.error_tables(IMAGES))
    assert [table.predicted for table in tables] == names.tolist()
    np.testing.assert_allclose([table.scores() for table in tables], scores, rtol=1e-5)
    pairs = [("a photo of a bag", "bag"), ("a photo of a sneaker", "sneaker"), ("a bag", "bag"), ("a coat", "coat")]
    permuted = DiffusionClassifier(tiny_sd, pairs, pruning=pruning)
    assert permuted.classes_.tolist() == ["bag", "sneaker", "coat"]
    np.testing.assert_allclose(permuted.decision_function(IMAGES), scores[:, [1, 0, 2]], rtol=1e-5)


def test_a_class_scores_as_its_best_prompt_and_a_row_is_a_prompt(tiny_sd):
    clf = DiffusionClassifier(tiny_sd, PROMPTS, pruning=FEW)
    table = clf.errors(IMAGES[0])
    assert table.errors.shape == (4, 6) and table.n_evaluations == 24
    assert list(table.classnames) == ["sneaker", "bag", "bag", "coat"]
    assert list(table.prompts) == ["a photo of a sneaker", "a photo of a bag", "a bag", "a coat"]
    means = table.errors.mean(1, dtype=np.float64)
    np.testing.assert_allclose(table.scores(), [-means[0], -min(means[1:3]), -means[3]], rtol=1e-6)
    assert repr(table) == "ErrorTable(4 prompts x 6 trials, 24 evaluations, loss='l2')"
    assert repr(clf).endswith(", 3 classes, pruning=Exhaustive(n=6, repeats=1), loss='l2', seed=0)")


def test_calibration_changes_probabilities_and_no_class(mini_sd):
    data = load_dataset("mini-tops", "tune", 30)
    printed = DiffusionClassifier(mini_sd, data.prompts, pruning=Exhaustive(4))
    names = np.array(data.classnames)[data.labels]
    fitted = clone(printed).calibrate(data.images, names)
    assert fitted.temperature != 1 and printed.temperature == 1 and clone(fitted).temperature == fitted.temperature
    np.testing.assert_array_equal(fitted.predict(data.images), printed.predict(data.images))
    loss = [-np.log(c.predict_proba(data.images)[np.arange(30), data.labels]).mean() for c in (printed, fitted)]
    assert loss[1] < loss[0]
    scores = printed.decision_function(data.images) * math.prod(mini_sd.latent_shape)
    assert fitted.temperature == fit_temperature(scores, data.labels)
    with pytest.raises(ValueError, match="labels must be among the 5 classes, got 'bag'"):
        printed.calibrate(data.images[:1], ["bag"])


def test_temperature_softens_and_seed_changes_the_noise(tiny_sd):
    cold, warm = (DiffusionClassifier(tiny_sd, PROMPTS, pruning=FEW, temperature=t) for t in (1, 50))
    first, second = cold.predict_proba(IMAGES), warm.predict_proba(IMAGES)
    np.testing.assert_allclose(np.log(first / first[:, :1]), 50 * np.log(second / second[:, :1]), rtol=1e-6, atol=1e-9)
    mine, other = (DiffusionClassifier(tiny_sd, PROMPTS, pruning=FEW, seed=n).errors(IMAGES[0]) for n in (0, 1))
    assert not torch.equal(other.noise([0]), mine.noise([0])) and (other.errors != mine.errors).all()


def test_the_default_is_a_race_with_the_models_threshold(gaussian):
    assert DiffusionClassifier(gaussian).strategy_ == Racing(trials=128)
    stored = {"trials": 128, "repeats": 1, "seed": 0, "prior_pairs": 8, "antithetic": True, "threshold": 2.3}
    calibrated = Wrapped(gaussian, calibration=stored)
    clf = DiffusionClassifier(calibrated)
    assert clf.strategy_ == Racing(threshold=2.3) and clf.pruning is None
    assert DiffusionClassifier(calibrated, pruning=Racing(confidence=0.9)).strategy_ == Racing(confidence=0.9)
    rounds = list(clf.race(noise_images(1)))
    assert rounds[-1].finished and rounds[-1].n_evaluations == clf.errors(noise_images(1)).n_evaluations


def test_prompts_that_are_not_told_apart_are_a_tie_of_classes(tiny_sd):
    table = DiffusionClassifier(tiny_sd, PROMPTS, pruning=Racing(budget=4)).errors(IMAGES[0])
    assert table.tie == ("sneaker", "bag", "coat") and table.n_evaluations == 4 and table.predicted in table.tie


def test_labels_composed_in_another_way_are_the_classes(tiny_sd):
    whole, parts = "caf\u00e9", "cafe\u0301"
    clf = DiffusionClassifier(tiny_sd, {parts: "a", f"{parts} noir": "b"}, pruning=FEW)
    assert clf.classes_.tolist() == [whole, f"{whole} noir"]
    labels = [name.replace(whole, parts) for name in clf.predict(IMAGES)]
    assert clf.fit(IMAGES, labels).score(IMAGES, labels) == 1


def test_labels_of_a_class_conditional_model(tiny_dit):
    race = Racing(trials=8)
    table = DiffusionClassifier(tiny_dit, pruning=race).errors(IMAGES[0])
    assert list(table.prompts) == list(table.classnames) == list(table.classes) == list(DIT_LABELS)
    tree = Hierarchical({"trouser": ["pullover"], 0: ["t-shirt"]}, race, race, level_trials=8)
    for labels, pruning in ((["pullover", "t-shirt"], race), (np.array([2, 0]), race), ([2, 0], tree)):
        some = DiffusionClassifier(tiny_dit, labels, pruning=pruning)
        assert some.classes_.tolist() == ["pullover", "t-shirt"]
        found, expected = some.errors(IMAGES[0]).errors, table.errors[[2, 0]]
        reached = ~np.isnan(found)
        assert reached.all() or (reached.any() and pruning is tree)
        np.testing.assert_allclose(found[reached], expected[reached], rtol=1e-5)


@pytest.mark.parametrize("loss", ["vlb", "l2+vlb"])
def test_variational_losses_decide_where_the_variance_is_learned(tiny_dit, loss):
    table = DiffusionClassifier(tiny_dit, pruning=FEW, loss=loss).errors(IMAGES[0])
    assert set(table.losses) == {"l2", "l1", "huber", "velocity", "vlb", "l2+vlb"}
    np.testing.assert_array_equal(table.errors, table.losses[loss])
    np.testing.assert_allclose(table.scores(), -table.losses[loss].mean(1, dtype=np.float64), rtol=1e-6)


def test_progress_is_shown_on_request(gaussian, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_PROGRESS", str(tmp_path / "bar"))
    DiffusionClassifier(gaussian, pruning=FEW).predict(noise_images(1))
    assert not (tmp_path / "bar").exists()
    DiffusionClassifier(gaussian, pruning=FEW, progress=True).predict(noise_images(1))
    assert (tmp_path / "bar").read_text().startswith("images: 100%")


# scikit-learn


def test_parameters_are_read_set_and_cloned(gaussian):
    clf = DiffusionClassifier(gaussian, pruning=FEW, loss="l1", seed=3)
    assert is_classifier(clf)
    copied = clone(clf)
    assert copied is not clf and copied.get_params() == clf.get_params() and copied.model is gaussian
    names = "model", "prompts", "pruning", "loss", "seed", "batch_size", "temperature", "progress"
    assert tuple(clf.get_params()) == names
    assert copied.set_params(pruning=STAGED, prompts=["1", "0"]) is copied
    assert copied.strategy_ == STAGED and copied.classes_.tolist() == ["1", "0"] and copied.loss == "l1"
    assert copied.predict(noise_images(2)).tolist() == clone(copied).predict(noise_images(2)).tolist()
    assert clf.strategy_ == FEW and clf.classes_.tolist() == ["0", "1"]
    for wrong in ({"losses": "l2"}, {"loss": "l3"}):
        with pytest.raises(ValueError, match=r"(parameter|loss) must be one of .*, got 'l(osses|3)'"):
            clf.set_params(**wrong)
    assert clf.loss == "l1", "nothing changes if a check fails"


def test_a_pickled_classifier_decides_the_same(gaussian, tiny_sd):
    for model, prompts, images in ((gaussian, None, noise_images(3)), (tiny_sd, PROMPTS, IMAGES)):
        clf = DiffusionClassifier(model, prompts, pruning=STAGED)
        scores = clf.decision_function(images)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).decision_function(images), scores)


def test_validation_and_grid_search_run(gaussian, points):
    images, labels = points
    clf = DiffusionClassifier(gaussian, pruning=FEW)
    assert clf.fit(images, labels) is clf and clf.fit(images) is clf
    accuracy = clf.score(images, labels)
    assert accuracy == np.mean(clf.predict(images) == labels) > 0.6
    with pytest.raises(ValueError, match="labels must be among the 2 classes, got 'cat'"):
        clf.fit(images, ["0", "cat"] * 30)
    for scoring in (None, "accuracy"):
        scores = cross_val_score(clf, images, labels, cv=3, scoring=scoring)
        assert scores.shape == (3,) and scores.mean() == pytest.approx(accuracy)
    assert cross_val_score(clf, list(images), labels, cv=3, scoring="neg_log_loss").max() < 0
    grid = {"loss": ["l1", "l2"], "pruning": [Exhaustive(1), STAGED, Racing(trials=16)]}
    found = GridSearchCV(clf, grid, cv=2).fit(images, labels)
    assert len(found.cv_results_["params"]) == 6 and set(found.best_params_) == {"loss", "pruning"}
    best = DiffusionClassifier(gaussian, **found.best_params_)
    assert found.predict(images).tolist() == best.predict(images).tolist()
    assert found.best_score_ == pytest.approx(best.score(images, labels))


def test_the_package_loads_without_what_it_may_not_need():
    heavy = {"matplotlib", "papermill", "pandas", "xarray", "diffusers", "sklearn"}
    script = f"import sys, diffclf, diffclf.bank; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


# What goes wrong


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompts": {"bag": "a bag"}}, ValueError, "at least 2 classes, got 1"),
        ({"loss": "mse"}, ValueError, "loss must be one of .*, got 'mse'"),
        ({"loss": "vlb"}, ValueError, "loss 'vlb' needs a model that learns its variance"),
        ({"pruning": Exhaustive(1001)}, ValueError, "at most the model's 1000 timesteps, got 1001"),
        ({"pruning": Racing(budget=3)}, ValueError, "budget must give 4 prompts a trial each"),
        ({"pruning": Hierarchical({"": ["sneaker", "bag", "coat"]})}, ValueError, "a node of the label tree"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"temperature": 0}, ValueError, "temperature must be above 0 and finite, got 0"),
        ({"temperature": float("inf")}, ValueError, "temperature must be above 0 and finite, got inf"),
        ({"prompts": {1: "a bag", 2: "a boot"}}, ValueError, "class name must be a text that is not empty, got 1"),
        ({"prompts": {("a",): "a bag", "b": "a boot"}}, ValueError, r"class name must be a text .*, got \('a',\)"),
        ({"pruning": Racing}, TypeError, "pruning must be a strategy, like Racing"),
        ({"model": object()}, TypeError, r"model must be what load_model\(name or folder\) returns, got object"),
        ({"model": "mini-sd"}, TypeError, r"must be a loaded model, load_model\('mini-sd'\), got only its name"),
        ({"pruning": 100}, TypeError, r"pruning must be a strategy, like Racing\(...\) .* or None, got 100"),
        ({"seed": "one"}, TypeError, "seed must be an integer, got 'one'"),
    ],
)
def test_impossible_classifiers_are_refused(tiny_sd, options, error, message):
    with pytest.raises(error, match=message):
        DiffusionClassifier(**{"model": tiny_sd, "prompts": PROMPTS, **options})


def test_impossible_calls_are_refused_before_long_work(tiny_sd):
    clf = DiffusionClassifier(tiny_sd, PROMPTS, pruning=FEW)
    for method in (clf.predict, clf.predict_proba, clf.decision_function, clf.error_tables):
        with pytest.raises(ValueError, match="at least one image, got none"):
            method([])
        with pytest.raises(FileNotFoundError, match="no_such.png"):
            method([IMAGES[0], "no_such.png"])
    with pytest.raises(ValueError, match="errors takes one image, got 5"):
        clf.errors(IMAGES)
    with pytest.raises(ValueError, match="race takes one image, got 5"):
        DiffusionClassifier(tiny_sd, PROMPTS).race(IMAGES)
    with pytest.raises(ValueError, match=r"pruning must be Racing\(...\) for a race, got Exhaustive"):
        clf.race(IMAGES[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux")
def test_memory_grows_with_the_table_and_not_with_the_evaluations():
    """A million evaluations, whose noised latents alone would take 768 MB."""
    script = Path(__file__).parent / "memory_grower.py"
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    n_evaluations, tables_mb, growth_mb = map(float, out.split())
    assert n_evaluations == 1_000_000
    assert tables_mb <= growth_mb < tables_mb + 40
