"""Intervals: known values, coverage, and the input that is refused."""

import numpy as np
import pytest
from scipy.stats import binom

from diffclf.stats import Estimate, bootstrap, clopper_pearson, mean, non_inferior, paired_difference, proportion


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
    values, groups = np.random.default_rng(9).random(12), np.arange(12) // 2
    sums = values.reshape(6, 2).sum(1)
    drawn = np.random.default_rng(4).integers(6, size=(500, 6))
    low, high = np.quantile(sums[drawn].sum(1) / 12, [0.05, 0.95])
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
    alone = mean(np.repeat(values, 10))
    assert alone.high - alone.low == pytest.approx((once.high - once.low) / np.sqrt(10), rel=0.06)
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


def test_interval_does_not_vanish_where_nothing_differs():
    """100 equal outcomes do not prove equality: an event of 3% can hide."""
    estimate = paired_difference(np.ones(100), np.ones(100))
    assert estimate.value == 0 and estimate.high == pytest.approx(0.037, abs=1e-3) and estimate.low == -estimate.high
    assert tuple(mean([1.0])) == (1.0, -np.inf, np.inf)


def test_bootstrap_of_a_mean_is_mean():
    values, groups = np.random.default_rng(6).exponential(size=80), np.arange(80) // 2
    general = bootstrap(np.mean, values, groups=groups, n_resamples=4000)
    assert tuple(general) == pytest.approx(tuple(mean(values, groups=groups)), abs=0.02)
    assert general.n == 40
    assert tuple(bootstrap(np.median, [2.0, 4.0], groups=[7, 7])) == (3.0, -np.inf, np.inf)


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
