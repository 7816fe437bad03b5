"""Errors at every timestep with the same noises, checked by hand on a model that is known exactly."""

import numpy as np
import pytest
import torch

from diffclf.experiments.fixed_noises import error_maps, fixed_noise_errors
from diffclf.images import load_images, to_pixels
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.trials import Trials, image_key

SHAPE = (3, 2, 2)
MODEL = GaussianMixtureModel(
    np.random.default_rng(0).normal(size=(3, 12)), [0.5, 0.7, 0.4], labels="abc", latent_shape=SHAPE
)
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 2, 2, 3), dtype=np.uint8)


def by_hand(x0, c, t, eps):
    alpha, sigma = MODEL.schedule.alpha[t], MODEL.schedule.sigma[t]
    x_t = alpha * x0.double() + sigma * eps.double()
    return (eps - MODEL.denoise(x_t[None], torch.tensor([t]), MODEL.encode_prompts([c]))[0]).square()


def test_errors_equal_the_loop_for_prompts_of_each_image():
    timesteps, asked = [20, 600], [[2, 0], [1, 2]]
    errors = fixed_noise_errors(MODEL, IMAGES, asked, timesteps, 3, seed=4)
    assert errors.shape == (2, 2, 2, 3)
    for i, image in enumerate(load_images(IMAGES)):
        pixels = to_pixels(image, 2)
        x0 = MODEL.encode_images(pixels[None])[0]
        noise = Trials([0] * 3, 4, image_key(pixels), SHAPE).noise(range(3))
        for p, c in enumerate(asked[i]):
            for j, t in enumerate(timesteps):
                expected = [by_hand(x0, c, t, eps).mean() for eps in noise]
                assert errors[i, p, j] == pytest.approx(np.array(expected), rel=1e-5)


def test_prompts_may_be_shared_by_all_images():
    everything = fixed_noise_errors(MODEL, IMAGES, ["a", "b", "c"], [300], 2)
    picked = fixed_noise_errors(MODEL, IMAGES, [["b"], ["b"]], [300], 2)
    assert everything.shape == (2, 3, 1, 2)
    assert everything[:, [1]] == pytest.approx(picked, rel=1e-6)


def test_error_maps_average_to_the_errors():
    pixels = to_pixels(load_images(IMAGES)[0], 2)
    x0, cond = MODEL.encode_images(pixels[None]), MODEL.encode_prompts([2, 0])
    trials = Trials(np.arange(0, 1000, 10), 0, None, SHAPE)
    maps = error_maps(MODEL, x0, cond, trials)
    assert maps.shape == (2, 2, 2)
    for row, c in zip(maps, (2, 0), strict=True):
        squared = [by_hand(x0[0], c, int(t), trials.noise([i])[0]) for i, t in enumerate(trials.timesteps)]
        assert row == pytest.approx(torch.stack(squared).mean((0, 1)).numpy(), rel=1e-5)
