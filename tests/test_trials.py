"""Timesteps spread evenly, noise that depends on seed, image and trial alone."""

import numpy as np
import pytest
import torch

from diffclf.trials import (
    STRATEGIES,
    Trials,
    antithetic_noises,
    even,
    image_key,
    label_to_index,
    nested_positions,
    spread_order,
    strategy_timesteps,
    uniform,
)

SHAPE = (4, 8, 8)


@pytest.mark.parametrize("n_timesteps", [1000, 100, 37])
def test_uniform_is_the_set_of_midpoints(n_timesteps):
    for n in range(1, n_timesteps + 1):
        expected = [int((i + 0.5) * n_timesteps / n + 1e-9) for i in range(n)]
        assert sorted(uniform(n, n_timesteps).tolist()) == expected, n
        assert len(set(expected)) == n
    np.testing.assert_array_equal(even(5), [100, 300, 500, 700, 900])
    np.testing.assert_array_equal(even(10), range(50, 1000, 100))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 25, 64, 100, 250, 500, 1000])
def test_every_prefix_of_uniform_is_spread(n):
    """k timesteps leave no gap wider than two k-ths of the range, up to the grid's own spacing."""
    timesteps = uniform(n)
    for k in range(1, n + 1):
        points = np.concatenate([[0], np.sort(timesteps[:k]), [1000]])
        assert np.diff(points).max() <= 2 * 1000 / k + 1000 / n + 1, k


def test_spread_order_is_a_permutation_that_halves_the_range():
    for n in range(1, 300):
        assert sorted(spread_order(n).tolist()) == list(range(n))
    assert spread_order(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_uniform_takes_one_to_all_timesteps(n):
    with pytest.raises(ValueError, match=rf"must lie in 1\.\.1000, got {n}"):
        uniform(n)


def test_labels_of_the_paper_are_indices_except_the_last():
    assert [label_to_index(label) for label in (0, 1, 500, 999, 1000)] == [0, 1, 500, 999, 999]
    assert label_to_index(50, 50) == 49
    for label in (-1, 1001):
        with pytest.raises(ValueError, match=rf"must lie in 0\.\.1000, got {label}"):
            label_to_index(label)


def test_the_eight_strategies_of_figure_4():
    assert len(STRATEGIES) == 8
    expected = {
        "0,500,1000": {0: 10, 500: 10, 999: 10},
        "0": {0: 30},
        "500": {500: 30},
        "1000": {999: 30},
        "475,500,525": {475: 6, 488: 6, 500: 6, 512: 6, 525: 6},
        "Even 5": dict.fromkeys(range(100, 1000, 200), 6),
        "Even 10": dict.fromkeys(range(50, 1000, 100), 3),
    }
    for name, counts in expected.items():
        timesteps = strategy_timesteps(name, 30)
        assert dict(zip(*(c.tolist() for c in np.unique(timesteps, return_counts=True)), strict=True)) == counts
        cycle = len(counts)
        assert len(set(timesteps[:cycle].tolist())) == cycle, "every timestep once before any twice"
    np.testing.assert_array_equal(strategy_timesteps("Uniform", 30), uniform(30))


def test_strategies_scale_to_another_number_of_timesteps():
    assert sorted(set(strategy_timesteps("0,500,1000", 6, 100).tolist())) == [0, 50, 99]
    assert sorted(set(strategy_timesteps("Even 5", 5, 100).tolist())) == [10, 30, 50, 70, 90]


def test_bad_strategies_are_refused():
    with pytest.raises(ValueError, match="strategy must be one of .*, got 'odd'"):
        strategy_timesteps("odd", 10)
    with pytest.raises(ValueError, match="n_trials of 'Even 10' must be at least 10, got 9"):
        strategy_timesteps("Even 10", 9)


# Noise


def test_noise_of_a_trial_depends_on_nothing_else_that_is_asked_for():
    trials = Trials(uniform(50), seed=3, key=12345, latent_shape=SHAPE)
    together = trials.noise(range(50))
    assert together.shape == (50, *SHAPE) and together.dtype == torch.float32 and together.device.type == "cpu"
    again = Trials(uniform(50), seed=3, key=12345, latent_shape=SHAPE)
    for index in (49, 0, 7):
        assert torch.equal(again.noise([index])[0], together[index])
    assert torch.equal(trials.noise([7, 3, 7]), together[[7, 3, 7]])
    longer = Trials(even(1000), seed=3, key=12345, latent_shape=SHAPE)
    assert torch.equal(longer.noise(range(50)), together), "nor on the timesteps or their number"


def test_noise_is_the_same_in_every_version_of_the_program():
    """Stored banks rest on these numbers."""
    first = Trials([500], seed=0, key=1, latent_shape=(2, 2, 2)).noise([0]).flatten()[:4].tolist()
    assert first == pytest.approx([0.5504453182, 0.0596980341, -1.5677983761, -0.5580145121], abs=1e-6)


def test_noise_differs_by_seed_key_and_index():
    noises = [
        Trials(uniform(4), seed, key, SHAPE).noise([index])[0]
        for seed in (0, 1, -1)
        for key in (None, 0, 1, 2**64 - 1)
        for index in (0, 3)
    ]
    rows = torch.stack(noises).flatten(1).double()
    correlation = torch.corrcoef(rows).abs().fill_diagonal_(0)
    assert correlation.max() < 5 / 256**0.5


def test_noise_is_standard_normal_and_independent():
    eps = Trials(np.zeros(2000), 0, 99, SHAPE).noise(range(2000)).double()
    n = eps.numel()
    assert abs(eps.mean()) < 4 / n**0.5
    assert abs(eps.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((eps**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert abs((eps[:-1] * eps[1:]).mean()) < 4 / n**0.5, "neighbouring trials"
    assert abs((eps[..., :-1] * eps[..., 1:]).mean()) < 4 / n**0.5, "neighbouring elements"


def test_without_a_key_all_images_share_the_noise():
    shared = [Trials(uniform(5), 0, None, SHAPE).noise([2]) for _ in range(2)]
    assert torch.equal(*shared)
    assert not torch.equal(shared[0], Trials(uniform(5), 0, 0, SHAPE).noise([2]))


def test_a_noise_and_its_mirror_image_are_named_by_number():
    plain = Trials(uniform(40), 0, 7, SHAPE).noise(range(40))
    trials = Trials([5, 900, 20], 0, 7, SHAPE, noises=[3, ~3, 11])
    assert torch.equal(trials.noise(range(3)), torch.stack([plain[3], -plain[3], plain[11]]))
    assert torch.equal(trials.noise([1]), -plain[[3]]), "nor does it matter what else is asked for"
    with pytest.raises(ValueError, match="noises must be as many as the 3 timesteps, got 2"):
        Trials([5, 900, 20], 0, 7, SHAPE, noises=[0, 1])


def test_every_second_block_of_nested_trials_mirrors_the_one_before():
    noises = antithetic_noises(40).ravel()
    blocks = [range(8), [~k for k in range(8)], range(16, 24), [~k for k in range(16, 24)], range(32, 40)]
    assert noises.tolist() == [number for block in blocks for number in block]
    twice = antithetic_noises(24, repeats=2)
    assert len(set(twice.ravel())) == 48 and twice[3].tolist() == [6, 7] and twice[11].tolist() == [~6, ~7]
    eighth = np.floor(nested_positions(1024, 5) * 8).reshape(-1, 2, 8)
    assert (eighth[:, 0] == eighth[:, 1]).all(), "at timesteps in the same eighth"


@pytest.mark.parametrize("indices", [[5], [-1], [0, 9]])
def test_trials_that_are_not_there_have_no_noise(indices):
    with pytest.raises(IndexError, match=r"must lie in 0\.\.4"):
        Trials(uniform(5), 0, 0, SHAPE).noise(indices)
    assert Trials(uniform(5), 0, 0, SHAPE).noise([]).shape == (0, *SHAPE)


def test_image_key_changes_with_any_pixel_and_with_the_shape():
    pixels = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    key = image_key(pixels)
    assert 0 <= key < 2**64
    assert image_key(pixels.clone()) == key
    assert image_key(pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == key, "values count, not their layout"
    changed = pixels.clone()
    changed[2, 31, 31] += 1 / 255
    assert image_key(changed) != key
    assert image_key(pixels.reshape(3, 16, 64)) != key
