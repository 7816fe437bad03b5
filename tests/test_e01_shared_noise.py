"""Shared trials and trials of each prompt's own: which noises are used, and what the variances come to."""

import numpy as np
import pytest
import torch

from diffclf.datasets import ImageSet
from diffclf.experiments.e01_shared_noise import (
    SHARED,
    Rivals,
    Sharing,
    SharingSource,
    band_rows,
    difference_variances,
    evaluations,
    fixed_noise_errors,
    measure_rivals,
    measure_sharing,
    pair_errors,
    variance_ratio,
)
from diffclf.images import load_images, to_pixels
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.trials import TrialList, Trials, image_key

SHAPE = (3, 2, 2)
MODEL = GaussianMixtureModel(
    np.random.default_rng(0).normal(size=(3, 12)), [0.5, 0.7, 0.4], labels="abc", latent_shape=SHAPE
)
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
PIXELS = [to_pixels(image, 2) for image in load_images(IMAGES)]
DATA = ImageSet("four", IMAGES, np.array([1, 0, 2, 1]), tuple("abc"), {c: c for c in "abc"}, np.array([0, 0, 1, 2]))


def own_trials(shared, n_prompts, n_trials, seed=7, key=11):
    """The trials of an image, and (n_prompts, n_trials) the indices of each prompt's own."""
    source = SharingSource(MODEL, np.arange(n_prompts) % 3, n_trials, shared, seed=seed)
    return source.trials_of(key), np.stack([np.flatnonzero(row) for row in source.own])


def by_hand(pixels, c, t, eps):
    """The squared errors of one image under class c, one for each t and eps."""
    t, x0 = torch.from_numpy(t), MODEL.encode_images(pixels[None]).expand_as(eps)
    eps_hat = MODEL.denoise(MODEL.schedule.add_noise(x0, eps, t), t, MODEL.encode_prompts([c] * len(t)))
    return pytest.approx((eps - eps_hat).square().flatten(1).mean(1).numpy(), rel=1e-5)


def test_variances_by_hand():
    first, second, third = [1.0, 3.0, 5.0], [2.0, 4.0, 9.0], [1.0, 3.0, 5.0]  # variances 4, 13, 4
    shared, own = difference_variances(np.array([[first], [second], [third]]))
    assert shared == pytest.approx(np.array([[3.0], [0.0]]))  # of -1, -1, -4 and of 0, 0, 0
    assert own == pytest.approx(np.array([[17.0], [8.0]]))
    errors = np.random.default_rng(0).normal(size=(2, 1, 400))
    pairs = errors[0, 0][:, None] - errors[1, 0][None]
    assert difference_variances(errors)[1][0, 0] == pytest.approx(pairs.var(), rel=0.01), "that of independent pairs"


def test_ratio_averages_over_images_first_and_takes_the_median_over_t():
    shared = np.array([[1.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    own = np.array([[8.0, 1.0, 9.0], [8.0, 3.0, 11.0]])
    assert variance_ratio(shared, own) == pytest.approx(4.0)  # of 16/4, 4/2, 20/4


def test_errors_on_fixed_noises_equal_the_loop_for_prompts_of_each_image():
    trials, asked = TrialList([20, 20, 20, 600, 600, 600], [0, 1, 2] * 2), [[2, 0], [1, 2]]
    errors = fixed_noise_errors(MODEL, IMAGES[:2], asked, [20, 600], 3, seed=4)
    assert errors.shape == (2, 2, 2, 3)
    for own, prompts, pixels in zip(errors, asked, PIXELS, strict=False):
        eps = Trials(trials, 4, image_key(pixels), SHAPE).noise(range(6))
        for row, c in zip(own, prompts, strict=True):
            assert row.ravel() == by_hand(pixels, c, trials.timesteps, eps)


def test_what_is_shared():
    trials = {what: own_trials(what, 3, 50) for what in SHARED}
    t = {what: own.timesteps[index] for what, (own, index) in trials.items()}
    noise = {what: own.noise(index.ravel()).reshape(3, 50, -1) for what, (own, index) in trials.items()}
    assert all(steps.shape == (3, 50) for steps in t.values())
    assert (t["t and noise"] == t["t only"]).all() and (t["t only"] == t["t only"][0]).all()
    assert (noise["t and noise"] == noise["t and noise"][0]).all()
    for what in ("t only", "nothing"):
        assert len(torch.unique(noise[what].reshape(150, -1), dim=0)) == 150
    steps = t["nothing"]
    assert (steps[0] != steps[1]).mean() > 0.9 and (steps[1] != steps[2]).mean() > 0.9


def test_figure_2_takes_the_first_image_of_the_pair_and_sums_over_the_latent():
    t, errors, names = pair_errors(MODEL, DATA, ["c", "b"], 3, 2, seed=4)
    assert t.tolist() == [0, 500, 999] and names == ["c", "b"]
    assert errors == pytest.approx(12 * fixed_noise_errors(MODEL, IMAGES[2], [2, 1], t, 2, seed=4)[0])
    assert pair_errors(MODEL, DATA, ["boot", "b"], 3, 2)[2] == ["a", "b"], "classes that the images have"


def test_rivals_are_ranked_by_other_errors_and_judged_on_new_noises():
    ranking = np.zeros((4, 3, 5))
    ranking[0, :, 0], ranking[1, :, 0] = [1, 9, 0], [0, 2, 1]  # labels 1 and 0
    found = measure_rivals(MODEL, DATA.first(2), ranking, np.array([100, 600]), 3, seed=4)
    assert found.own.shape == found.shared.shape == (2, 2, 2) and found.groups.tolist() == [0, 0]
    for image, order in enumerate(([1, 2, 0], [0, 2, 1])):
        errors = fixed_noise_errors(MODEL, IMAGES[image], order, [100, 600], 3, first=5, seed=4)[0]
        shared, own = difference_variances(errors)
        assert found.shared[image] == pytest.approx(12 * shared) and found.own[image] == pytest.approx(12 * own)
    listed = TrialList([100] * 3, [5, 6, 7])
    errors = fixed_noise_errors(MODEL, IMAGES[0], [1], [100], 3, first=5, seed=4)
    eps = Trials(listed, 4, image_key(PIXELS[0]), SHAPE).noise(range(3))
    assert errors.ravel() == by_hand(PIXELS[0], 1, listed.timesteps, eps)


def test_ratios_by_rank_and_by_timestep():
    shared = np.ones((3, 2, 2))
    own = np.array([[[8.0, 2.0], [1.0, 1.0]]] * 3)
    rivals = Rivals(np.array([50, 950]), shared, own, np.arange(3))
    assert [rivals.ratio(rank).value for rank in (0, 1)] == [5, 1] and rivals.mean_ratio().value == 5
    assert rivals.ratio(np.array([0, 1, 1])).value == pytest.approx((10 / 3 + 4 / 3) / 2)
    by_t = {name: [estimate.value for estimate in values] for name, values in rivals.by_t().items()}
    assert by_t == {"own noises": [8, 2], "shared noise": [1, 1], "ratio": [8, 2]}


def test_intervals_of_variances_lie_above_zero():
    own = np.full((9, 1, 1), 1e-6)
    own[0] = 1  # one image decides the mean: an interval that is symmetric about it would reach below 0
    (estimate,) = Rivals(np.array([50]), own, own, np.arange(9)).by_t()["own noises"]
    assert 0 < estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize("shared", SHARED)
def test_errors_equal_the_loop_nothing_else_is_evaluated_and_more_trials_begin_with_the_same(shared):
    sharing = measure_sharing(MODEL, DATA, 3, seed=5)
    errors, source = sharing.errors[shared], SharingSource(MODEL, [0, 1, 2], 3, shared, seed=5)
    assert errors.shape == (4, 3, 3) and errors.size == 4 * source.own.sum(axis=1).sum()
    for own, pixels, first in zip(errors, PIXELS, sharing.timesteps, strict=True):
        trials = source.trials_of(image_key(pixels))
        assert (trials.timesteps[source.own[0]] == first).all()
        for row, mask, c in zip(own, source.own, range(3), strict=True):
            assert row == by_hand(pixels, c, trials.timesteps[mask], trials.noise(np.flatnonzero(mask)))
    more = measure_sharing(MODEL, DATA, 9, seed=5).errors[shared]
    assert more[:, :, :3] == pytest.approx(errors, rel=1e-6)


def made(right):
    """Classifiers of two classes and two trials, class 0 true; right: what is shared -> (n_images, 2) right trials."""
    errors = {what: np.stack([1.0 - np.array(own), own], axis=1) for what, own in right.items()}
    n = len(errors[SHARED[0]])
    return Sharing(errors, np.tile([50, 950], (n, 1)), np.zeros(n, dtype=int), np.arange(n))


def test_accuracy_gain_and_trials_for_equal_accuracy():
    all_right, late, never = [[1, 1]] * 4, [[0, 2]] * 4, [[0, 0]] * 4
    sharing = made(dict(zip(SHARED, (all_right, late, never), strict=True)))
    rows = sharing.rows()
    assert [row["gained"].value for row in rows.values()] == [0, 100, 0]
    assert [row["trials for one shared trial's accuracy"] for row in rows.values()] == [1, 2, "over 2"]
    assert rows["shared: t only"]["1 trial"].value == 0 and rows["shared: t only"]["2 trials"].value == 100
    assert sharing.compare(("t and noise", 2), ("nothing", 2), 0.98).value == 100


def test_a_band_has_its_part_of_the_variance_and_the_accuracy_of_its_trials():
    sharing = made({"t and noise": [[1, 1]] * 4, "t only": [[0, 1], [1, 1]] * 2, "nothing": [[0, 0]] * 4})
    own = np.array([4.0, 1.0, 1.0, 1.0, 2.0])[None, None].repeat(4, axis=0)
    rivals = Rivals(np.array([50, 150, 300, 600, 900]), np.ones_like(own), own, np.arange(4))
    rows = band_rows(rivals, sharing, 1000)
    assert list(rows) == ["0 to 99", "100 to 249", "250 to 499", "500 to 749", "750 to 999"]
    total = 0.1 * 4 + 0.15 + 0.25 + 0.25 + 0.25 * 2
    assert [row["variance, own"] for row in rows.values()] == pytest.approx(
        [100 * part / total for part in (0.4, 0.15, 0.25, 0.25, 0.5)]
    )
    assert [row["variance, shared"] for row in rows.values()] == pytest.approx([10, 15, 25, 25, 25])
    assert rows["0 to 99"]["one trial, own"].value == 50 and rows["0 to 99"]["one trial, shared"].value == 100
    assert rows["750 to 999"]["one trial, own"].value == 100
    assert np.isnan(rows["250 to 499"]["one trial, own"]), "no trial there"


def test_unknown_sharing_is_refused():
    with pytest.raises(ValueError, match="shared must be one of .* got 'eps'"):
        SharingSource(MODEL, [0, 2], 3, "eps")


def test_evaluations_by_hand():
    sizes = {"n_curve": 100, "n_noises": 4, "n_pairs": 60, "n_images": 100, "n_pooled": 16, "n_trials": 12}
    assert evaluations(sizes | {"n_classes": 10}) == 800 + 38_400 + 36_000
    assert evaluations(sizes | {"n_classes": 10, "n_images": 30}) == 800 + 30 * 10 * 16 * 4 + 3 * 10 * 30 * 12
