"""What notebook 00 computes, checked by hand on an exact model."""

import numpy as np
import pytest
import torch

from diffclf.experiments import e00_start_here as e00
from diffclf.experiments.accuracy import correct_by_budget
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.stats import Estimate
from diffclf.trials import Trials


@pytest.fixture
def model():
    means = np.random.default_rng(0).normal(size=(3, 12))
    return GaussianMixtureModel(means, [0.5, 0.7, 0.4], latent_shape=(3, 2, 2))


@pytest.fixture
def x0():
    return torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (1, 3, 2, 2))).float()


@pytest.fixture
def world():
    return GaussianMixtureModel([[0, 0], [-2, 0], [2, 0]], [0.8, 0.2, 0.2], classes=[0, 1, 1])


def test_predicted_noise_is_that_of_the_model_under_each_prompt(model, x0):
    trials, cond = Trials(np.arange(0, 1000, 10), 0, None, model.latent_shape), model.encode_prompts([2, 0])
    t, eps = torch.from_numpy(trials.timesteps), trials.noise(range(100))
    x_t = model.schedule.add_noise(x0.expand_as(eps), eps, t)
    noise, predicted = e00.predict_noise(model, x0, trials, cond)
    assert torch.equal(noise, eps)
    for prompt, row in enumerate(predicted):
        assert torch.allclose(row, model.denoise(x_t, t, cond[[prompt] * 100]).float(), rtol=1e-5, atol=1e-6)


def test_error_maps_are_means_over_the_middle_half_of_the_trials(model, x0):
    cond = model.encode_prompts([2, 0])
    trials = Trials([250, 350, 450, 550, 650, 750], 7, None, model.latent_shape)  # of 50, 150, ..., 950
    eps, predicted = e00.predict_noise(model, x0, trials, cond)
    expected = (eps - predicted).square().numpy().mean(axis=(1, 2))
    assert e00.error_maps(model, x0, cond, 10, seed=7) == pytest.approx(expected[:, :, :], rel=1e-5)


def test_step_latents_are_the_clean_the_noised_and_the_predicted_ones(model, x0):
    cond, t = model.encode_prompts([2, 0]), torch.tensor([400])
    clean, x_t, *guesses = e00.step_latents(model, x0, 400, cond, seed=3)
    assert torch.equal(clean, x0[0]) and torch.allclose(x_t, e00.noised(model, x0, [100, 400], seed=3)[1])
    for prompt, guess in enumerate(guesses):
        eps_hat = model.denoise(x_t[None], t, cond[[prompt]])
        assert torch.allclose(model.schedule.add_noise(guess[None].double(), eps_hat, t), x_t[None].double(), atol=1e-5)


def test_a_world_and_its_rules(world):
    margins = e00.rule_margins(world)
    (x, y), bayes = e00.PLANE, margins["Bayes' rule"]
    place = torch.tensor([[x[7], y[3]]])
    assert bayes.shape == (len(y), len(x))
    assert bayes[3, 7] == pytest.approx(world.log_density(place).diff().item())
    # The bound is -log p up to a constant; equal weights are another rule.
    alike = {rule: ((margin > 0) == (bayes > 0)).mean() for rule, margin in margins.items()}
    assert alike["bound's weights"] > 0.97 > 0.95 > alike["equal weights"] > 0.8


def test_many_trials_approach_bayes_and_one_late_trial_is_a_guess(world):
    points, labels = world.sample(400, torch.Generator().manual_seed(0))
    errors = e00.point_errors(world, points, [900])
    assert errors.shape == (400, 2, 101)
    rows = e00.timestep_rows(world, points, labels, errors, [900])
    bayes = 100 * (world.posterior(points).argmax(1) == labels).double().mean().item()
    assert rows["t = 900"]["one trial"].low < 50 < rows["t = 900"]["many trials"].low
    assert rows["all t"]["many trials"].value == 100 * correct_by_budget(errors, labels, [100]).mean()
    assert abs(rows["all t"]["many trials"].value - bayes) < 4


def test_rivals_gaps_and_what_is_said_of_them():
    errors = np.array([[0.3, 0.5], [0.1, 0.2], [0.1, 0.4]])
    assert e00.with_rivals(errors, 2) == [2, 1, 0]
    gaps = e00.error_gaps(errors, 2, ["bag", "boot", "coat"])
    assert {name: round(gap.value) for name, gap in gaps.items()} == {"bag": 150, "boot": -100, "coat": 0}
    assert tuple(gaps["coat"]) == (0, 0, 0) and gaps["bag"].low == -np.inf, "two trials are too few"
    assert e00.winner(gaps) == "boot"
    right = {"bag": Estimate(2, -1, 3), "boot": Estimate(3, 1, 4), "coat": Estimate(0, 0, 0)}
    wrong = right | {"boot": Estimate(-2, -3, -1)}
    said = e00.reading({25: right, 525: wrong}, right, "coat")
    assert said[0] == "coat has the smallest error at 1 of 2 timesteps."
    assert said[1].startswith("t = 525: boot wins.") and said[1].endswith("-2 [-3, -1], which lies below 0.")
    assert said[2:] == ["Over all trials coat wins. Rivals whose interval begins at or below 0: bag."]


def test_figure_1_has_the_errors_of_the_same_noises_at_every_timestep(model):
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    prompts = {"a": "0", "b": "1", "c": "2"}
    gaps = e00.gaps_over_t(model, pixels, prompts, "b", {"n_slider": 4, "n_noises": 3, "seed": 0})
    assert [*gaps] == [125, 375, 625, 875] and [*gaps[125]] == ["a", "b", "c"]
    assert all(own["b"].value == 0 != own["a"].value for own in gaps.values())


def test_evaluations_by_hand():
    sizes = {"n_trials": 50, "n_slider": 20, "n_noises": 8}
    assert e00.evaluations(sizes | {"n_classes": 10}) == 2 * 10 * 50 + 5 * 26 + 4 + 10 * 20 * 8
    assert e00.evaluations(sizes | {"n_classes": 3}) == 2 * 3 * 50 + 3 * 26 + 3 + 3 * 20 * 8
