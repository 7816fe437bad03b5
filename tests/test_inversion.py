"""DDIM there and back: an exact world, diffusers, a naive loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny import save_class_folder, tiny_scheduler
from tiny_blip import save_tiny_blip

from diffclf.datasets import load_dataset
from diffclf.datasets.world import ITEMS
from diffclf.experiments import inversion
from diffclf.experiments.inversion import DESCRIBED, RIGHT, SWAPPED, WRONG, ddim, ddim_timesteps, squared_error
from diffclf.images import load_images, to_pixels
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.schedule import NoiseSchedule
from diffclf.stats import paired_difference

SCHEDULES = {
    "epsilon": NoiseSchedule.linear(),
    "v_prediction": NoiseSchedule.linear(prediction_type="v_prediction"),
    "flow_prediction": NoiseSchedule.flow(torch.linspace(0.002, 1, 1000)),
}


def two_clouds(schedule=None):
    return GaussianMixtureModel(means=[[-1, 0], [1, 0]], variances=[0.2, 0.2], schedule=schedule)


def trip(model, x0, there, back, n_steps):
    steps = ddim_timesteps(n_steps, len(model.schedule))
    noise = ddim(model, x0, model.encode_prompts(there), steps)
    return ddim(model, noise, model.encode_prompts(back), steps[::-1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_round_trip_returns_as_the_steps_grow_whatever_the_prompt(name):
    model = two_clouds(SCHEDULES[name])
    x0 = torch.tensor([[0.8, 0.3], [0.8, 0.3], [-0.4, -0.6]]).view(3, 2, 1, 1)
    few, many = (squared_error(trip(model, x0, [0, 1, 1], [0, 1, 1], n), x0) ** 0.5 for n in (160, 320))
    assert (many < 0.05).all() and np.allclose(few / many, 2, rtol=0.05), "the distance falls like 1 / steps"


def test_back_under_another_prompt_the_point_changes_its_mean_and_keeps_its_offset():
    x0 = torch.tensor([0.8, 0.3]).view(1, 2, 1, 1)
    swapped = trip(two_clouds(), x0, [1], [0], 500)
    np.testing.assert_allclose(swapped.flatten(), [-1.2, 0.3], atol=0.01)
    same = squared_error(trip(two_clouds(), x0, [1], [1], 500), x0)
    assert squared_error(swapped, x0) > 1e4 * same


@pytest.mark.parametrize("n_steps", [3, 20])
def test_the_smallest_reconstruction_error_is_bayes_rule_for_round_clouds_of_one_width(n_steps):
    model = two_clouds()
    points, _ = model.sample(200, torch.Generator().manual_seed(0))
    errors = np.stack([squared_error(trip(model, points, [c] * 200, [c] * 200, n_steps), points) for c in (0, 1)], 1)
    assert (errors.argmin(axis=1) == model.posterior(points).argmax(dim=1).numpy()).all()
    distances = (points.flatten(1)[:, None] - model.means).square().sum(dim=2).numpy()
    np.testing.assert_allclose(errors[:, 0] / errors[:, 1], distances[:, 0] / distances[:, 1], rtol=5e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_sampling_is_that_of_diffusers_for_any_batch(tiny_sd, monkeypatch, prediction_type):
    monkeypatch.setattr(tiny_sd, "schedule", replace(tiny_sd.schedule, prediction_type=prediction_type))
    scheduler = tiny_scheduler(DDIMScheduler, prediction_type)
    scheduler.set_timesteps(10)  # 901, 801, ..., 1
    x, cond = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0)), tiny_sd.encode_prompts(["a", "b"])
    rows = [0, 1, 1, 0, 1]
    expected = x
    for t in scheduler.timesteps[3:6]:
        output = tiny_sd.denoise(expected, t.expand(5), cond[rows])
        expected = scheduler.step(output, t, expected, eta=0.0).prev_sample
    for batch_size in (None, 2, 3):
        found = ddim(tiny_sd, x, cond[rows], [601, 501, 401, 301], batch_size)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_inverted_step_is_undone_by_the_noise_it_was_made_of(tiny_sd):
    x, cond = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), tiny_sd.encode_prompts(["a", "b"])
    alpha, sigma = (table.float() for table in (tiny_sd.schedule.alpha, tiny_sd.schedule.sigma))
    eps_hat = tiny_sd.denoise(x, torch.tensor([100, 100]), cond)
    expected = alpha[300] * (x - sigma[100] * eps_hat) / alpha[100] + sigma[300] * eps_hat
    torch.testing.assert_close(ddim(tiny_sd, x, cond, [100, 300]), expected, rtol=1e-4, atol=1e-5)


def test_timesteps_have_both_ends():
    assert ddim_timesteps(4, 1001).tolist() == [0, 250, 500, 750, 1000] and ddim_timesteps(50)[[0, -1]].tolist() == [
        0,
        999,
    ]
    for n in (0, 1000):
        with pytest.raises(ValueError, match=f"n_steps must lie in 1..999, got {n}"):
            ddim_timesteps(n)


def test_round_trips_are_those_of_a_loop(tiny_sd):
    data = load_dataset("mini-items", n_images=3)
    rivals, described, steps = np.array([7, 0, 2, 9]), ["a red coat", "a photo of a bag", "b", "c"], ddim_timesteps(2)
    found = inversion.round_trips(tiny_sd, data, rivals, described, n_steps=2)
    assert found.errors.shape == (3, 10) and list(found.kinds) == list(found.latents) == [
        RIGHT,
        WRONG,
        DESCRIBED,
        SWAPPED,
    ]
    prompts = data.prompts_for(tiny_sd)
    for place, image in enumerate(load_images(data.images)):
        x0 = tiny_sd.encode_images(to_pixels(image, 32)[None])
        own, rival = prompts[data.labels[place]], prompts[rivals[place]]
        pairs = {RIGHT: (own, own), WRONG: (rival, rival), DESCRIBED: (described[place],) * 2, SWAPPED: (own, rival)}
        for kind, (there, back) in pairs.items():
            noise = ddim(tiny_sd, x0, tiny_sd.encode_prompts([there]), steps)
            made = ddim(tiny_sd, noise, tiny_sd.encode_prompts([back]), steps[::-1])
            torch.testing.assert_close(found.latents[kind][[place]], made, rtol=1e-3, atol=1e-3)
            assert found.kinds[kind][place] == pytest.approx(float((made - x0).square().mean()), rel=1e-3)
        assert found.errors[place, data.labels[place]] == found.kinds[RIGHT][place]


def test_rows_and_answers_of_round_trips():
    errors = np.tile([[0.3, 0.1]], (10, 1))
    kinds = {RIGHT: np.full(10, 0.1), WRONG: np.linspace(0.1, 0.5, 10), DESCRIBED: np.full(10, 0.05)}
    found = inversion.RoundTrips(errors, kinds, {}, np.ones(10, dtype=int), np.arange(10))
    rows = found.rows()
    assert rows[RIGHT]["error x 1000"].value == pytest.approx(100) and rows[RIGHT]["minus right class"] is None
    assert rows[WRONG]["larger than right class, %"] == 90 and rows[WRONG]["median x 1000"] == pytest.approx(300)
    expected = 1000 * paired_difference(kinds[WRONG], kinds[RIGHT], np.arange(10), level=0.9)
    assert found.minus_right(WRONG, 0.9) == expected and expected.value == pytest.approx(200)
    field = found.field(np.array([1, 0] * 10))
    assert field.accuracy("reconstruction").value == 100 and field.accuracy("diffusion classifier").value == 50


def test_scenes_are_described_by_their_colour_and_class():
    coloured = load_dataset("mini-coloured-items", n_images=80)
    data = replace(coloured, labels=coloured.labels % len(ITEMS), classnames=ITEMS)
    expected = [f"a photo of a {coloured.classnames[label]}" for label in coloured.labels]
    assert inversion.describe(data) == expected and len(set(expected)) > 30


def test_other_images_are_described_by_a_blip(tmp_path):
    data = load_dataset(str(save_class_folder(tmp_path / "images", ["cat", "dog"])))
    with pytest.raises(ValueError, match="captioner must name a BLIP"):
        inversion.describe(data)
    captions = inversion.describe(data, str(save_tiny_blip(tmp_path / "blip")))
    assert len(captions) == len(data) and all(captions) and not any("[" in caption for caption in captions)
