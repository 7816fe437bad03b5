"""Intervals: known values, coverage, and the input that is refused."""

import math

import numpy as np
import pytest
from scipy.stats import binom, multinomial, norm, t

from diffclf.stats import (
    Estimate,
    bootstrap,
    clopper_pearson,
    contrast_values,
    crossed,
    holm,
    mcnemar,
    mean,
    non_inferior,
    paired_difference,
    proportion,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(21, 26, 0.6212, 0.9149), (154, 400, 0.3386, 0.4336), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson_known_values(successes, n, low, high):
    assert tuple(proportion(successes, n)) == pytest.approx((successes / n, low, high), abs=5e-5)


def test_wilson_solves_its_equation():
    """At either end p, the observed share is z standard errors of p away."""
    z = 2.5758293035489004
    estimate = proportion(37, 90, level=0.99)
    for end in (estimate.low, estimate.high):
        assert abs(37 / 90 - end) == pytest.approx(z * np.sqrt(end * (1 - end) / 90), rel=1e-9)


@pytest.mark.parametrize(("successes", "n", "level"), [(3, 20, 0.95), (920, 1000, 0.995), (1, 7, 0.9)])
def test_clopper_pearson_tails(successes, n, level):
    estimate = clopper_pearson(successes, n, level)
    assert binom.sf(successes - 1, n, estimate.low) == pytest.approx((1 - level) / 2, rel=1e-6)
    assert binom.cdf(successes, n, estimate.high) == pytest.approx((1 - level) / 2, rel=1e-6)
    assert clopper_pearson(0, n, level).low == 0.0 and clopper_pearson(n, n, level).high == 1.0


@pytest.mark.parametrize("function", [proportion, clopper_pearson])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 0), "n must be at least 1"), ((5, 4), "got 5 of 4"), ((-1, 4), "got -1 of 4"), ((1, 4, 1.0), "level")],
)
def test_proportions_refuse(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_intervals_match_normal_theory():
    """On many values: the mean +- 1.96 standard errors, the one-sided bound 1.64 below; of pairs, those of a - b."""
    generator = np.random.default_rng(0)
    values, common = generator.normal(3, 2, size=2000), generator.normal(scale=10, size=2000)
    error = values.std() / np.sqrt(2000)
    one_sided = non_inferior(common + values, common)
    assert one_sided.level == pytest.approx(0.9)
    assert one_sided.low == pytest.approx(values.mean() - 1.644854 * error, abs=0.06 * error)
    for estimate in (mean(values), paired_difference(common + values, common)):
        expected = (values.mean(), values.mean() - 1.959964 * error, values.mean() + 1.959964 * error)
        assert tuple(estimate) == pytest.approx(expected, abs=0.12 * error)
        assert estimate.n == 2000


def test_resamples_are_these_draws_whatever_the_chunk(monkeypatch):
    """Published intervals stay the same: draws of the generator in this order, percentiles of their means."""
    values, groups = np.random.default_rng(9).random(20), np.arange(20) // 2
    means = values.reshape(10, 2).mean(1)
    furthest = np.abs(means - means.mean()).max()
    means = np.append(means, means.mean() + furthest * np.array([-1, -1, 1, 1]))
    drawn = np.random.default_rng(4).integers(14, size=(500, 14))
    tail = norm.cdf(np.sqrt(10 / 9) * t(9).ppf(0.05))
    low, high = np.quantile(means[drawn].mean(1), [tail, 1 - tail])
    for chunk in (2_000_000, 100):
        monkeypatch.setattr("diffclf.stats.CHUNK", chunk)
        estimate = mean(values, groups=groups, level=0.9, n_resamples=500, seed=4)
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-12)


def test_groups_are_resampled():
    """Ten copies of each photograph tell no more than one: the interval stays as wide."""
    values = np.random.default_rng(1).normal(size=100)
    groups = np.repeat([f"photo {index}" for index in range(100)], 10)
    once, tenfold = mean(values), mean(np.repeat(values, 10), groups=groups)
    assert tenfold.n == 100
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.05)
    assert mean(np.repeat(values[:8], 10), groups=groups[:80]).high < np.inf
    assert mean(np.repeat(values[:7], 10), groups=groups[:70]).high == np.inf, "seven photographs are too few"
    alone = mean(np.repeat(values, 10))
    assert alone.high - alone.low == pytest.approx((once.high - once.low) / np.sqrt(10), rel=0.15)
    assert mean([1, 1, 1, 0], groups=["a", "a", "a", "b"]).value == 0.75  # groups weigh by their size


def test_coverage_of_paired_difference():
    """Of 400 intervals at 90%, about 360 hold the truth."""
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(400):
        a, b = generator.random(150) < 0.8, generator.random(150) < 0.6
        estimate = paired_difference(a, b, level=0.9, n_resamples=500, seed=trial)
        covered += estimate.low <= 0.2 <= estimate.high
    assert 340 <= covered <= 380


@pytest.mark.parametrize("n", [8, 10, 20])
@pytest.mark.parametrize("n_copies", [1, 3])
def test_few_photographs_are_covered(n, n_copies):
    """Nine of ten outcomes are equal: of 1000 intervals at 95%, at least 930 hold the truth."""
    rng, covered, groups = np.random.default_rng(n), 0, np.repeat(np.arange(n), n_copies)
    for seed in range(1000):
        d = rng.choice([-1, 0, 1], p=[0.06, 0.9, 0.04], size=n).repeat(n_copies)
        alone = rng.random(d.size) < 0.2
        d[alone] = rng.choice([-1, 0, 1], p=[0.06, 0.9, 0.04], size=alone.sum())
        estimate = paired_difference(d, np.zeros(d.size), groups, n_resamples=300, seed=seed)
        covered += estimate.low <= -0.02 <= estimate.high
    assert covered >= 930


@pytest.mark.parametrize(("n", "loss", "win"), [(10, 0.06, 0.04), (20, 0.06, 0.04), (100, 0.06, 0.04), (200, 0.02, 0)])
def test_a_difference_at_the_margin_is_rarely_accepted(n, loss, win):
    """The exact probability, over numbers of losses and wins, that the lower bound lies above the true difference."""
    accepted, outcomes = 0.0, multinomial(n, [loss, 1 - loss - win, win])
    for losses in range(int((loss - win) * n) + int(5 * win * n) + 1):
        for wins in range(int(5 * win * n) + 1):
            values, margin = np.repeat([-1.0, 0.0, 1.0], [losses, n - losses - wins, wins]), loss - win
            if values.mean() > -margin:
                low = non_inferior(values, np.zeros(n), n_resamples=500).low
                accepted += (low > -margin) * outcomes.pmf([losses, n - losses - wins, wins])
    assert accepted < 0.065


def test_interval_does_not_vanish_where_nothing_differs():
    """100 equal outcomes do not prove equality: an event of 3% can hide, with a probability of 0.97^100."""
    estimate = paired_difference(np.ones(100), np.ones(100))
    assert estimate.value == 0 and estimate.low == -estimate.high
    assert (1 - estimate.high) ** 100 == pytest.approx(0.025)
    assert tuple(mean([1.0])) == (1.0, -np.inf, np.inf)
    assert non_inferior(np.ones(8), [1, 1, 1, 1, 1, 1, 1, 0]).low < -0.05, "one win among ties proves nothing"


def test_interval_of_truth_values_lies_in_the_unit_interval():
    right = np.arange(20) > 0
    assert mean(right).high == 1 < mean(right.astype(float)).high
    assert mean(right).low == mean(right.astype(float)).low and mean(~right).low == 0


def test_bootstrap_of_a_mean_is_mean():
    values, groups = np.random.default_rng(6).exponential(size=800), np.arange(800) // 2
    general = bootstrap(np.mean, values, groups=groups, n_resamples=4000)
    assert tuple(general) == pytest.approx(tuple(mean(values, groups=groups)), abs=0.02)
    assert general.n == 400
    assert tuple(bootstrap(np.median, [2.0, 4.0], groups=[7, 7])) == (3.0, -np.inf, np.inf)


def test_bootstrap_draws_whole_groups_as_a_loop_does():
    values, groups = np.array([3.0, 1, 4, 1, 5, 9, 2, 6]), np.array([7, 2, 7, 2, 2, 5, 5, 7])
    rows, generator, found = [np.flatnonzero(groups == group) for group in (2, 5, 7)], np.random.default_rng(3), []

    def seen(sample):
        found.append(sample)
        return float(np.median(sample))

    bootstrap(seen, values, groups=groups, n_resamples=100, seed=3)
    for sample in found[1:]:
        drawn = np.concatenate([rows[group] for group in generator.integers(3, size=3)])
        np.testing.assert_array_equal(sample, values[drawn])


def test_bootstrap_resamples_samples_together():
    values = np.random.default_rng(8).normal(size=60)
    estimate = bootstrap(lambda a, b: float(np.max(np.abs(a - b))), values, values.copy(), n_resamples=200)
    assert tuple(estimate) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean([]), "values must be a non-empty"),
        (lambda: mean([1.0, float("nan")]), "values must be finite, got nan at 1"),
        (lambda: mean([1.0, 2.0], groups=[1]), "groups must name one group for each of 2"),
        (lambda: mean([1.0, 2.0], n_resamples=5), "n_resamples must be at least 100, got 5"),
        (lambda: paired_difference([1, 2], [1]), "same length, got 2 and 1"),
        (lambda: non_inferior([1, 2], [1, 2], level=0.4), r"\(0.5, 1\), got 0.4"),
        (lambda: bootstrap(np.mean, [1, 2], [1]), r"first axis of at least 1, got lengths \[1, 2\]"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_estimate_changes_its_unit_and_prints():
    estimate = Estimate(0.2, 0.1, 0.4, level=0.9, n=7)
    assert 100 * estimate == Estimate(20.0, 10.0, 40.0, 0.9, 7)
    assert tuple(-1 * estimate) == (-0.2, -0.4, -0.1)
    assert f"{estimate:.1f}" == "0.2 [0.1, 0.4]" and str(estimate) == "0.2 [0.1, 0.4]"


def test_mcnemars_test_counts_the_images_on_which_one_is_right():
    a, b = np.repeat([1, 0, 1, 0], [50, 20, 12, 3]), np.repeat([1, 0, 0, 1], [50, 20, 12, 3])
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2 * sum(math.comb(15, k) for k in range(4)) / 2**15)
    assert mcnemar(a, a) == 1 and mcnemar([1, 0], [0, 1]) == 1
    with pytest.raises(ValueError, match="same length, got 2 and 1"):
        mcnemar([1, 0], [1])


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1, 1] and holm([0.04]).tolist() == [0.04] and holm([]).size == 0


def test_an_interval_ends_where_possible_values_end():
    assert Estimate(0.9, 0.7, 1.1, 0.9, 5).within(0, 1) == Estimate(0.9, 0.7, 1, 0.9, 5)
    assert Estimate(0.1, -0.1, 0.2).within(0, 1) == Estimate(0.1, 0, 0.2)


def test_seeds_and_images_both_count():
    rng = np.random.default_rng(0)
    images = rng.normal(size=200)
    alike = crossed(np.stack([images] * 3))  # seeds that agree: the interval of a mean over images
    half = t.ppf(0.975, 199) * images.std(ddof=1) / np.sqrt(200)
    assert (alike.low, alike.high) == pytest.approx((images.mean() - half, images.mean() + half))
    apart = crossed(np.array([[0.0], [1.0], [5.0]]) + np.zeros(200), level=0.9)  # images that agree: over three seeds
    half = t.ppf(0.95, 2) * np.std([0, 1, 5], ddof=1) / np.sqrt(3)
    assert (apart.value, apart.low, apart.high, apart.n) == pytest.approx((2, 2 - half, 2 + half, 200))
    assert crossed(np.ones((3, 50))).high == pytest.approx(1 + clopper_pearson(0, 50).high)


def test_coverage_over_seeds_and_images():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        values = 0.5 * rng.normal(size=(3, 1)) + 3 * rng.normal(size=100) + rng.normal(size=(3, 100))
        found = crossed(values)
        hits += found.low < 0 < found.high
    assert 0.93 <= hits / 400 <= 0.995


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, np.nan], [0.0, 1.0]]])
def test_crossed_refuses(values):
    with pytest.raises(ValueError, match="two or more seeds by two or more images"):
        crossed(values)


def test_values_of_a_contrast():
    values, part = np.array([1.0, 2.0, 5.0, 7.0, 100.0]), np.arange(5)
    first, second = part < 2, (part == 2) | (part == 3)
    found = contrast_values(values, first, second)
    assert found == pytest.approx(
        [-4.5 - 1, -4.5 + 1, -4.5 + 2, -4.5 - 2]
    )  # deviations times 4 / 2, of the second minus
    several = contrast_values(np.stack([values, 3 * values]), first, second)
    assert several.mean(axis=1) == pytest.approx([-4.5, -13.5]) and several[0] == pytest.approx(found)


def test_interval_of_a_contrast_is_that_of_two_samples():
    rng = np.random.default_rng(0)
    values, first = rng.normal(size=900), np.arange(900) < 300
    values[first] *= 3
    found = mean(contrast_values(values, first, ~first), signed=True)
    error = np.sqrt(values[first].var() / 300 + values[~first].var() / 600)
    assert found.value == pytest.approx(values[first].mean() - values[~first].mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
