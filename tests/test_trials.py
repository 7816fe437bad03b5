"""Timesteps spread over their range, noise that depends on seed, image and number alone."""

from itertools import product

import numpy as np
import pytest
import torch

from diffclf.trials import (
    TrialList,
    Trials,
    antithetic_noises,
    even,
    image_key,
    nested_positions,
    spread_order,
    uniform,
)

SHAPE = (4, 8, 8)


@pytest.mark.parametrize("n_timesteps", [1000, 100, 37])
def test_uniform_is_the_set_of_midpoints(n_timesteps):
    for n in range(1, n_timesteps + 1):
        expected = [int((i + 0.5) * n_timesteps / n + 1e-9) for i in range(n)]
        assert sorted(uniform(n, n_timesteps).tolist()) == expected == even(n, n_timesteps).tolist(), n
        assert len(set(expected)) == n
    np.testing.assert_array_equal(even(5), [100, 300, 500, 700, 900])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 25, 64, 100, 250, 500, 1000])
def test_every_prefix_of_uniform_is_spread(n):
    """k timesteps leave no gap wider than two k-ths of the range, up to the grid's own spacing."""
    timesteps = uniform(n)
    for k in range(1, n + 1):
        points = np.concatenate([[0], np.sort(timesteps[:k]), [1000]])
        assert np.diff(points).max() <= 2 * 1000 / k + 1000 / n + 1, k
    assert spread_order(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform(0), r"must lie in 1\.\.1000, got 0"),
        (lambda: uniform(1001), r"must lie in 1\.\.1000, got 1001"),
        (lambda: TrialList([5, 900, 20], [0, 1]), "noises must be as many as the 3 timesteps, got 2"),
        (lambda: TrialList.every_noise_at([7], 0), "n_noises must be at least 1, got 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_of_a_power_of_two_and_every_block_of_eight_has_one_position_in_each_part(seed):
    for k in range(11):
        assert sorted(np.floor(nested_positions(2**k, seed) * 2**k)) == list(range(2**k))
    eighths = np.floor(nested_positions(1000, seed) * 8).reshape(-1, 8)
    assert (np.sort(eighths, axis=1) == np.arange(8)).all()
    pairs = np.floor(nested_positions(1024, seed) * 8).reshape(-1, 2, 8)
    assert (pairs[:, 0] == pairs[:, 1]).all(), "a block and its mirror image, in the same order"
    np.testing.assert_array_equal(nested_positions(20, seed), nested_positions(1000, seed)[:20])


def test_each_position_by_itself_is_uniform():
    first = np.array([nested_positions(8, seed) for seed in range(4000)])
    assert np.abs(first.mean(axis=0) - 0.5).max() < 0.02  # the standard deviation is 0.0046
    assert np.abs(first.var(axis=0) - 1 / 12).max() < 0.004


def test_every_second_block_of_noises_mirrors_the_one_before():
    blocks = [range(8), [~k for k in range(8)], range(16, 24), [~k for k in range(16, 24)], range(32, 40)]
    assert antithetic_noises(40).ravel().tolist() == [number for block in blocks for number in block]
    twice = antithetic_noises(24, repeats=2)
    assert len(set(twice.ravel())) == 48 and twice[3].tolist() == [6, 7] and twice[11].tolist() == [~6, ~7]


def test_a_list_starts_with_another_of_the_same_timesteps_and_noises():
    trials = TrialList([5, 900, 20], [0, ~0, 1])
    assert len(trials) == 3 and trials.starts_with(trials[:2]) and trials.starts_with(trials)
    assert not trials[:2].starts_with(trials), "it is longer"
    assert not trials.starts_with(TrialList([5, 900])) and not trials.starts_with(TrialList([5, 901], [0, ~0]))
    assert TrialList([5, 900]).noises.tolist() == [0, 1] and trials[[2, 0]].noises.tolist() == [1, 0]
    assert trials[[2, 0]].timesteps.tolist() == [20, 5]
    grid = TrialList.every_noise_at([7, 400, 999], 2)
    assert grid.timesteps.tolist() == [7, 7, 400, 400, 999, 999] and grid.noises.tolist() == [0, 1] * 3


def test_noise_of_a_trial_depends_on_nothing_else_that_is_asked_for():
    trials = Trials(uniform(50), seed=3, key=12345, latent_shape=SHAPE)
    together = trials.noise(range(50))
    assert together.shape == (50, *SHAPE) and together.dtype == torch.float32 and together.device.type == "cpu"
    assert torch.equal(trials.noise([7, 3, 7]), together[[7, 3, 7]])
    longer = Trials(even(1000), seed=3, key=12345, latent_shape=SHAPE)
    assert torch.equal(longer.noise(range(50)), together), "nor on the timesteps or their number"
    listed = Trials(TrialList([5, 900, 20], [3, ~3, 11]), 3, 12345, SHAPE)
    assert torch.equal(listed.noise(range(3)), torch.stack([together[3], -together[3], together[11]]))
    assert torch.equal(listed.noise([1]), -together[[3]])


def test_noise_and_positions_are_the_same_in_every_version_of_the_program():
    """Stored banks and calibrations rest on these numbers."""
    first = Trials([500], seed=0, key=1, latent_shape=(2, 2, 2)).noise([0]).flatten()[:4].tolist()
    assert first == pytest.approx([0.5504453182, 0.0596980341, -1.5677983761, -0.5580145121], abs=1e-6)
    assert nested_positions(3) == pytest.approx([0.3493379775441848, 0.5908907478391612, 0.002390583966088115])


def test_noise_is_standard_normal_and_differs_by_seed_key_and_number():
    identities = product((0, 1, -1), (None, 0, 1, 2**64 - 1))
    others = [Trials(np.zeros(100), seed, key, SHAPE).noise(range(100)) for seed, key in identities]
    rows = torch.cat(others).flatten(1).double()
    n = rows.numel()
    assert abs(rows.mean()) < 4 / n**0.5
    assert abs(rows.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((rows**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert abs((rows[:, :-1] * rows[:, 1:]).mean()) < 4 / n**0.5, "neighbouring elements"
    assert torch.corrcoef(rows).abs().fill_diagonal_(0).max() < 6 / 256**0.5, "any two noises"


def test_trials_that_are_not_there_have_no_noise():
    trials = Trials(uniform(5), 0, 0, SHAPE)
    for indices in ([5], [-1], [0, 9]):
        with pytest.raises(IndexError, match=r"must lie in 0\.\.4"):
            trials.noise(indices)
    assert trials.noise([]).shape == (0, *SHAPE)


def test_image_key_changes_with_any_pixel_and_with_the_shape():
    pixels = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    key = image_key(pixels)
    assert 0 <= key < 2**64
    assert image_key(pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == key, "values count, not their layout"
    changed = pixels.clone()
    changed[2, 31, 31] += 1 / 255
    assert image_key(changed) != key
    assert image_key(pixels.reshape(3, 16, 64)) != key
