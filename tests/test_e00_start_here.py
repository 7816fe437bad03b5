"""What notebook 00 costs, the timesteps of its error maps, and the maps checked by hand on an exact model."""

import numpy as np
import pytest
import torch

from diffclf.experiments.e00_start_here import error_maps, evaluations, middle_half
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.trials import Trials


@pytest.mark.parametrize(("n", "kept"), [(8, [2, 3, 4, 5]), (10, [2, 3, 4, 5, 6, 7]), (1, [0]), (3, [0, 1, 2])])
def test_the_middle_half_loses_a_quarter_at_both_ends(n, kept):
    assert middle_half(range(n)).tolist() == kept


def test_error_maps_average_to_the_errors():
    rng = np.random.default_rng(0)
    model = GaussianMixtureModel(rng.normal(size=(3, 12)), [0.5, 0.7, 0.4], latent_shape=(3, 2, 2))
    x0, cond = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 2, 2))).float(), model.encode_prompts([2, 0])
    trials = Trials(np.arange(0, 1000, 10), 0, None, model.latent_shape)
    t, eps = torch.from_numpy(trials.timesteps), trials.noise(range(100))
    x_t = model.schedule.add_noise(x0.expand_as(eps), eps, t)
    for prompt, row in enumerate(error_maps(model, x0, cond, trials)):
        squared = (eps - model.denoise(x_t, t, cond[[prompt] * 100])).square()
        assert row.shape == (2, 2) and row == pytest.approx(squared.mean((0, 1)).numpy(), rel=1e-5)


def test_evaluations_by_hand():
    sizes = {"n_trials": 50, "n_slider": 20, "n_noises": 8}
    assert evaluations(sizes | {"n_classes": 10}) == 2 * 10 * 50 + 5 * 26 + 10 * 20 * 8 == 2730
    assert evaluations(sizes | {"n_classes": 3}) == 2 * 3 * 50 + 3 * 26 + 3 * 20 * 8
