"""Errors on a grid of timesteps and noises, checked by hand on a model that is known exactly."""

import numpy as np
import pytest
import torch

from diffclf.gaussian import GaussianMixtureModel
from diffclf.images import load_images, to_pixels
from diffclf.trials import Trials, image_key
from diffclf.workbook.grid import TrialGrid, error_maps, grid_errors

MODEL = GaussianMixtureModel(
    np.random.default_rng(0).normal(size=(3, 12)), [0.5, 0.7, 0.4], labels="abc", latent_shape=(3, 2, 2)
)
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 2, 2, 3), dtype=np.uint8)


def by_hand(x0, c, t, eps):
    alpha_bar = MODEL.alphas_cumprod[t]
    x_t = alpha_bar.sqrt() * x0.double() + (1 - alpha_bar).sqrt() * eps.double()
    return (eps - MODEL.denoise(x_t[None], torch.tensor([t]), torch.tensor([c]))[0]).square()


def test_grid_has_every_timestep_with_the_same_noises():
    grid = TrialGrid([7, 400, 999], 2, seed=3, key=5, latent_shape=(3, 2, 2))
    assert grid.timesteps.tolist() == [7, 7, 400, 400, 999, 999]
    noise = grid.noise(range(6)).reshape(3, 2, 3, 2, 2)
    assert (noise == noise[0]).all() and not (noise[0, 0] == noise[0, 1]).any()
    assert (noise[0] == Trials([0, 0], 3, 5, (3, 2, 2)).noise([0, 1])).all()
    with pytest.raises(ValueError, match="n_noises must be at least 1, got 0"):
        TrialGrid([7], 0, seed=0, key=None, latent_shape=(3, 2, 2))


def test_grid_errors_equal_the_loop():
    timesteps, asked = [20, 600], np.array([[2, 0], [1, 2]])
    errors = grid_errors(MODEL, IMAGES, ["a", "b", "c"], timesteps, 3, asked=asked, seed=4)
    assert errors.shape == (2, 2, 2, 3)
    for i, image in enumerate(load_images(IMAGES)):
        pixels = to_pixels(image, 2)
        x0 = MODEL.encode_images(pixels[None])[0]
        noise = Trials([0] * 3, 4, image_key(pixels), (3, 2, 2)).noise(range(3))
        for p, c in enumerate(asked[i]):
            for j, t in enumerate(timesteps):
                expected = [by_hand(x0, int(c), t, eps).mean() for eps in noise]
                assert errors[i, p, j] == pytest.approx(np.array(expected), rel=1e-5)


def test_all_prompts_are_asked_by_default():
    everything = grid_errors(MODEL, IMAGES, [0, 1, 2], [300], 2)
    picked = grid_errors(MODEL, IMAGES, [0, 1, 2], [300], 2, asked=np.array([[1], [1]]))
    assert everything.shape == (2, 3, 1, 2)
    assert everything[:, [1]] == pytest.approx(picked, rel=1e-6)


def test_error_maps_average_to_the_errors():
    pixels = to_pixels(load_images(IMAGES)[0], 2)
    x0, cond = MODEL.encode_images(pixels[None]), MODEL.encode_prompts([2, 0])
    trials = Trials(np.arange(0, 1000, 10), 0, None, (3, 2, 2))
    maps = error_maps(MODEL, x0, cond, trials)
    assert maps.shape == (2, 2, 2)
    for row, c in zip(maps, (2, 0), strict=True):
        squared = [by_hand(x0[0], c, int(t), trials.noise([i])[0]) for i, t in enumerate(trials.timesteps)]
        assert row == pytest.approx(torch.stack(squared).mean((0, 1)).numpy(), rel=1e-5)
