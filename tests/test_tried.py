"""What else was tried is measured right: mirrored noise is mirrored, weights do what they say."""

import numpy as np
import pytest
import torch
from tiny import save_tiny_sd

from diffclf import load_model
from diffclf.datasets import load_dataset
from diffclf.trials import Trials
from diffclf.workbook.tried import _Mirrored, antithetic_correlation, weighted_accuracies


def test_every_third_noise_is_the_mirror_image_of_the_one_before():
    timesteps = np.repeat([3, 5], 3)
    mirrored, plain = (kind(timesteps, 1, 2, (4, 2, 2)) for kind in (_Mirrored, Trials))
    eps, expected = mirrored.noise(np.arange(6)), plain.noise(np.arange(6))
    assert torch.equal(eps[[0, 2, 3, 5]], expected[[0, 2, 3, 5]])
    assert torch.equal(eps[[1, 4]], -expected[[0, 3]])
    assert torch.equal(mirrored.noise([4]), -plain.noise([3]))


def test_the_correlation_is_minus_one_of_differences_that_are_odd_in_the_noise(tmp_path):
    model, data = load_model(save_tiny_sd(tmp_path / "sd")), load_dataset("mini-items", "tune", 4)
    assert -1 <= antithetic_correlation(model, data, np.array([200, 500, 800])) <= 1
    # a network that answers with the condition alone: d = (eps - c)^2 - (eps - c0)^2 is odd in eps up to a constant
    model.denoise = lambda x_t, t, cond: cond[:, :, 0].sum(dim=1).view(-1, 1, 1, 1).expand_as(x_t)
    assert antithetic_correlation(model, data, np.arange(0, 1000, 4)) == pytest.approx(-1, abs=0.2)


def test_weights_help_where_only_some_trials_tell_classes_apart():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    errors = rng.normal(0, 0.3, (400, 4, 20))
    errors[:, :, :10] += 3 * rng.normal(0, 1, (400, 4, 10))  # trials that only differ
    errors[np.arange(400), labels, 10:] -= 0.3
    found = weighted_accuracies(errors, labels)
    assert set(found) == {"flat", "spread", "1 / spread", "1 / spread squared"}
    assert found["1 / spread squared"] > found["flat"] + 0.2 > found["spread"] + 0.2
