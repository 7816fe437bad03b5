"""Shared trials and trials of each prompt's own: which noises are used, and what the variances come to."""

import numpy as np
import pytest
import torch

from diffclf.experiments.e01_shared_noise import (
    SHARED,
    SharingSource,
    difference_variances,
    evaluations,
    fixed_noise_errors,
    sharing_errors,
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
    first, second = [1.0, 3.0, 5.0], [2.0, 4.0, 9.0]  # variances 4 and 13; differences -1, -1, -4: variance 3
    shared, own = difference_variances(np.array([[first], [second]]))
    assert shared == pytest.approx([3.0]) and own == pytest.approx([17.0])
    errors = np.random.default_rng(0).normal(size=(2, 1, 400))
    pairs = errors[0, 0][:, None] - errors[1, 0][None]
    assert difference_variances(errors)[1][0] == pytest.approx(pairs.var(), rel=0.01), "that of independent pairs"


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


@pytest.mark.parametrize("shared", SHARED)
def test_errors_equal_the_loop_nothing_else_is_evaluated_and_more_trials_begin_with_the_same(shared):
    source = SharingSource(MODEL, [0, 2], 3, shared, seed=5)
    errors = sharing_errors(source, IMAGES)
    assert errors.shape == (4, 2, 3) and source.n_evaluations == errors.size
    for own, pixels in zip(errors, PIXELS, strict=True):
        trials = source.trials_of(image_key(pixels))
        for row, mask, c in zip(own, source.own, (0, 2), strict=True):
            assert row == by_hand(pixels, c, trials.timesteps[mask], trials.noise(np.flatnonzero(mask)))
    more = sharing_errors(SharingSource(MODEL, [0, 2], 9, shared, seed=5), IMAGES)
    assert more[:, :, :3] == pytest.approx(errors, rel=1e-6)


def test_unknown_sharing_is_refused():
    with pytest.raises(ValueError, match="shared must be one of .* got 'eps'"):
        SharingSource(MODEL, [0, 2], 3, "eps")


def test_evaluations_by_hand():
    sizes = {"n_curve": 100, "n_noises": 4, "n_pairs": 60, "n_images": 100, "n_pooled": 20, "n_trials": 12}
    assert evaluations(sizes | {"n_classes": 10}) == 46_400
    assert evaluations(sizes | {"n_classes": 10, "n_images": 30}) == 800 + 30 * 2 * 20 * 4 + 3 * 10 * 30 * 12
