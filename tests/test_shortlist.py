"""A shortlist: what the scorer leaves out costs nothing and cannot win."""

import numpy as np
import pytest
import torch
from tiny import save_tiny_sd

from diffclf import DiffusionClassifier, Exhaustive, Racing, Shortlist, Staged, load_model
from diffclf.pruning import replay
from diffclf.shortlist import Among

PROMPTS = {name: f"a photo of a {name}" for name in ("sneaker", "bag", "coat", "dress", "shirt")}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return load_model(save_tiny_sd(tmp_path_factory.mktemp("shortlist") / "sd"))


def pictures(n):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("then", [Exhaustive(12), Staged((3, 12), (2, 1)), Racing(trials=12, threshold=1.0)])
def test_the_strategy_sees_only_the_chosen_prompts(then):
    errors = np.random.default_rng(0).random((6, 12)).astype(np.float32)
    chosen = (1, 3, 4)
    known = replay(Among(chosen, then), errors)
    np.testing.assert_array_equal(known[list(chosen)], replay(then, errors[list(chosen)]))
    assert np.isnan(known[[0, 2, 5]]).all()
    assert Among(chosen, then).evaluations(6) == then.evaluations(3)


def test_survivors_are_named_by_their_own_indices():
    errors = np.tile(np.arange(6, dtype=np.float32)[:, None], 20)
    errors[4] = errors[1]
    assert Among((1, 3, 4), Racing(trials=20)).survivors(errors).tolist() == [1, 4]
    assert Among((1, 3), Exhaustive(20)).survivors(errors).tolist() == []


def test_each_image_has_a_list_of_its_own(sd):
    """The scorer reads the order of the classes from the image's first pixels."""

    def scorer(pixels):
        assert pixels.shape == (3, 32, 32) and pixels.min() < 0
        return pixels[0, 0, :5].numpy()

    images = pictures(3)
    clf = DiffusionClassifier(sd, PROMPTS, pruning=Shortlist(2, scorer, Exhaustive(6)))
    for image, table in zip(images, clf.error_tables(images), strict=True):
        best = np.argsort(-image[0, 0, :5].numpy())[:2]
        assert set(np.flatnonzero(~np.isnan(table.errors).any(axis=1))) == set(best.tolist())
        assert table.n_evaluations == 12 and table.predicted in clf.classes_[best]
        scores, proba = table.scores(), table.proba()
        assert np.isneginf(np.delete(scores, best)).all() and np.isfinite(scores[best]).all()
        assert proba.sum() == pytest.approx(1) and (np.delete(proba, best) == 0).all()


def test_a_list_of_everything_changes_nothing(sd):
    images, race = pictures(4), Racing(trials=24, threshold=1.0)
    listed = Shortlist(9, lambda pixels: np.zeros(5), race)
    for pruning in (listed, race):
        assert DiffusionClassifier(sd, PROMPTS, pruning=pruning).pruning.evaluations(5) == 120
    both = (DiffusionClassifier(sd, PROMPTS, pruning=p).error_tables(images) for p in (listed, race))
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a.errors, b.errors)


def test_ties_within_the_list_keep_the_earlier_prompts():
    listed = Shortlist(2, lambda pixels: np.array([1.0, 2.0, 1.0, 1.0]), Exhaustive(3))
    assert listed.for_image(torch.zeros(3, 4, 4), 4).prompts == (0, 1)


@pytest.mark.parametrize(
    ("scores", "message"),
    [(np.zeros(4), r"5 finite scores, .* got shape \(4,\)"), (np.full(5, np.nan), "5 finite scores, .* with NaN")],
)
def test_a_scorer_that_is_wrong_is_named(sd, scores, message):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=Shortlist(2, lambda pixels: scores, Exhaustive(3)))
    with pytest.raises(ValueError, match=f"scorer must return {message}"):
        clf.predict(pictures(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, len, Exhaustive()), "k must be a whole number"), ((2, None, Exhaustive()), "scorer must be a function")],
)
def test_impossible_shortlists_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Shortlist(*arguments)
