"""Races on made-up tables whose answers are known, the statistics behind them and their calibration."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import beta

from diffclf import DiffusionClassifier, Racing
from diffclf.pruning import run_stored
from diffclf.pruning.calibration import calibrate, check_threshold
from diffclf.pruning.racing import collapsed_variance, moderated_variance
from diffclf.trials import nested_positions


def table(means, n_trials=128, sd=1.0, common=5.0, seed=0):
    """Errors with these means, noise of their own and a larger one that all prompts share."""
    rng = np.random.default_rng(seed)
    means = np.asarray(means, dtype=float)[:, None]
    shared = rng.normal(0, common, n_trials)
    return (means + shared + rng.normal(0, sd, (len(means), n_trials))).astype(np.float32)


def antithetic(rng, shape, odd, even):
    """Differences (..., n_trials): what eps and -eps do to them with opposite signs, and with equal ones."""
    block = np.arange(shape[-1]) // 8
    source = np.arange(shape[-1]) - 8 * (block % 2)
    return odd * rng.normal(size=shape)[..., source] * (-1) ** block + even * rng.normal(size=shape)[..., source]


def judge(race, tables):
    """Images on which the winner of the full evaluation is dropped, and mean evaluations."""
    looks = [list(race.rounds(errors))[-1] for errors in tables]
    dropped = [e.mean(1, dtype=float).argmin() not in look.survivors for e, look in zip(tables, looks, strict=True)]
    return sum(dropped), np.mean([look.n_evaluations for look in looks])


def test_variances_by_hand():
    # the geometric mean of 1 and 100 is 10, worth 4 pairs beside 12: (4 * 10 + 12 v) / 16
    np.testing.assert_allclose(moderated_variance([1.0, 100.0], 12, 4), [(40 + 12) / 16, (40 + 1200) / 16])
    np.testing.assert_allclose(moderated_variance([1.0, 100.0], 8), [(10 + 1) / 2, (10 + 100) / 2])
    np.testing.assert_allclose(moderated_variance([0.0, 2.0, 2.0], 4), [0, 2, 2])  # the best prompt's does not count
    assert moderated_variance(np.zeros(3), 4).tolist() == [0, 0, 0]
    assert collapsed_variance(np.array([1.0, 3.0, 10.0, 6.0])) == pytest.approx((4 + 16) / 16)
    # one pair and a group of three, 3/2 times its squared deviations from 2: 1.5 (1 + 0 + 1)
    assert collapsed_variance(np.array([1.0, 3.0, 1.0, 2.0, 3.0])) == pytest.approx((4 + 3) / 25)


def squared_errors(differences, n):
    """The squared standard errors after n trials of prompts with these differences to a far better one."""
    errors = np.concatenate([np.zeros((1, differences.shape[1])), 1000 + differences])
    race = Racing(differences.shape[1], threshold=1e9, prior_pairs=0, budget=n * len(errors))
    *_, look = race.rounds(errors)
    assert look.n_trials == n
    return (look.margins[1:] / 1e9) ** 2


@pytest.mark.parametrize("n", [8, 16, 32, 48, 80, 112, 9, 15, 20, 30, 47])
def test_the_squared_error_is_that_of_the_mean_about_the_mean_of_all_trials(n):
    whole = n - n % (16 if n >= 16 else 8)
    made = antithetic(np.random.default_rng(n), (20_000, 128), odd=2 if n == whole else 1, even=1)
    true = (made[:, :n].mean(axis=1) - made.mean(axis=1)).var()
    found = squared_errors(made, n)
    np.testing.assert_allclose(found, squared_errors(made, whole), rtol=1e-9)
    # Of single noises it is a little too large; trials without their mirror image must not make it too small.
    low, high = (0.95, 1.1 if n == 8 else 1.05) if n == whole else (0.97, np.inf)
    assert true * low < found.mean() < true * high


@pytest.mark.parametrize("mirrored", [True, False])
def test_margins_are_standard_errors_times_the_threshold_or_the_bound_of_a_confidence(mirrored):
    errors = table([0, 0.01, 0.02], 100)
    cautious = list(Racing(100, confidence=0.9999, antithetic=mirrored, seed=3).rounds(errors))
    fixed = list(Racing(100, threshold=100.0, prior_pairs=0, antithetic=mirrored, seed=3).rounds(errors))
    assert len(cautious) == len(fixed) == (8 if mirrored else 11)
    n_tests = 2 * (len(cautious) - 1)  # two rivals, all looks but the last
    for look in cautious[:-1]:
        n, share = look.n_trials, look.n_trials / 100
        d = (errors - errors[look.best])[look.raced, :n]
        if mirrored and n > 8:
            d = d.reshape(len(d), n // 16, 2, 8).mean(axis=2).reshape(len(d), n // 2)
        bound = np.sqrt(2 * np.log(n_tests / 0.0001) * (d**2).sum(axis=1)) / d.shape[1]
        np.testing.assert_allclose(look.margins, bound * np.sqrt(1 if mirrored and n == 8 else 1 - share), rtol=1e-5)
    look, share = (fixed[0], 0) if mirrored else (fixed[2], 24 / 100)  # of 8 and of 24 trials
    ordered = (errors - errors[look.best])[:, np.argsort(nested_positions(100, 3)[: look.n_trials])]
    np.testing.assert_allclose(look.margins, 100 * np.sqrt(collapsed_variance(ordered) * (1 - share)), rtol=1e-5)
    plain, default = (next(Racing(100, confidence=c).rounds(errors)) for c in (0.99, None))
    np.testing.assert_array_equal(plain.margins, default.margins)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_confidence_holds_where_it_is_hardest_to_keep(mirrored):
    """Six prompts, differences of the order of their standard errors: the full winner is dropped in 5% at most."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.2, (1500, 6))
    noise = antithetic(rng, (1500, 6, 64), odd=2, even=0.7) if mirrored else rng.normal(0, 1, (1500, 6, 64))
    lost, _ = judge(Racing(64, confidence=0.95), means[..., None] + noise)
    assert lost == 0 or beta.ppf(0.001, lost, 1500 - lost + 1) < 0.05
    few, _ = judge(Racing(64, threshold=1.0), (means[..., None] + noise)[:300])
    assert few > 0.1 * 300, "a threshold without regard to looks and rivals does not keep it"


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "spread", [lambda t: np.where(t < 0.3, 10, 1), lambda t: (1 - t) ** 4, lambda t: np.where(t < 0.1, 100, 1)]
)
def test_the_confidence_holds_where_few_timesteps_make_most_of_the_spread(spread, mirrored):
    """Six prompts of the same mean: at a probability of 2%, more than 1.3% are dropped in 99 of 100 tests."""
    lost = 0
    for seed in range(4):  # other timesteps for each
        rng, shape = np.random.default_rng(seed), (500, 6, 128)
        noise = antithetic(rng, shape, odd=2, even=0.7) if mirrored else rng.normal(size=shape)
        race = Racing(128, confidence=0.99, antithetic=mirrored, seed=seed)
        lost += judge(race, noise * spread(nested_positions(128, seed)))[0]
    assert lost <= 0.013 * 2000


def test_a_race_by_hand():
    """After 8 of 32 trials only the third prompt is further from the best than z SE; the second one stays."""
    race = Racing(trials=32, threshold=2.0, prior_pairs=4)
    order = np.argsort(nested_positions(32), kind="stable")
    errors = np.zeros((3, 32))
    errors[1, order] = np.tile([1.0, -0.8], 16)
    errors[2, order] = np.tile([1.5, 0.5], 16)
    among = order[order < 8]
    look = next(race.rounds(errors))
    assert look.n_trials == 8 and look.raced.tolist() == [0, 1, 2] and look.n_evaluations == 24
    d = errors[:, among] - errors[look.best, among]
    own = ((d[:, ::2] - d[:, 1::2]) ** 2).sum(axis=1) / 64
    others = np.sqrt(own[1] * own[2])  # their geometric mean counts as four pairs, as many as each has itself
    for row in (1, 2):
        assert look.margins[row] == pytest.approx(2 * np.sqrt((own[row] + others) / 2))
        assert look.differences[row] == pytest.approx(d[row].mean())
        assert look.means[row] == pytest.approx(errors[row, :8].mean())
    assert look.survivors.tolist() == [0, 1]


def test_looks_are_at_whole_blocks_four_to_a_doubling_and_nothing_is_dropped_before_eight_trials():
    race = Racing(trials=6, threshold=0.01)
    (look,) = race.rounds(table([0, 100, 200], 6))
    assert look.n_trials == 6 and look.survivors.tolist() == [0] and race.looks() == [6]
    (look,) = Racing(trials=100, threshold=0.01, budget=21).rounds(table([0, 100, 200], 100))
    assert look.n_trials == 7 and look.survivors.tolist() == [0, 1, 2] and np.isinf(look.margins).all()
    assert Racing(trials=100).looks() == [8, 16, 32, 48, 64, 80, 96, 100]
    assert Racing(trials=500).looks()[5:] == [80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 500]
    assert Racing(trials=100, antithetic=False).looks() == [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 100]


def test_a_budget_is_kept_and_one_below_the_number_of_prompts_refused():
    errors = np.repeat(table([0]), 4, axis=0)  # nobody is ever dropped
    for budget in (8, 9, 63, 64, 100, 300, 1000):
        race = Racing(64, budget=budget, repeats=2)
        spent = (~np.isnan(run_stored(race, errors))).sum()
        assert min(budget, 512) - 8 < spent <= min(budget, 512) == race.evaluations(4)
    for refused in (lambda r: r.evaluations(4), lambda r: r.next(errors), lambda r: list(r.rounds(errors))):
        with pytest.raises(ValueError, match="budget must give 4 prompts a trial each, 8 evaluations, got 7"):
            refused(Racing(64, budget=7, repeats=2))


def test_repeats_are_averaged_before_the_race():
    errors = table([0, 0.5, 1, 9], 32, seed=3)
    twice = np.repeat(errors, 2, axis=1)
    twice[:, ::2] += 0.25
    twice[:, 1::2] -= 0.25
    once, doubled = Racing(trials=32, threshold=2.0), Racing(trials=32, threshold=2.0, repeats=2)
    for a, b in zip(once.rounds(errors), doubled.rounds(twice), strict=True):
        assert a.survivors.tolist() == b.survivors.tolist() and 2 * a.n_evaluations == b.n_evaluations
        np.testing.assert_allclose(a.margins, b.margins, rtol=1e-4)


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(5)
    return np.stack([table(rng.normal(0, 1, 4), 32, seed=seed) for seed in range(400)])


def test_calibration_takes_the_smallest_threshold_before_the_first_failure(many):
    race, tables, others = Racing(trials=32, budget=100), many[:300], many[300:]
    found = calibrate(race, tables, error=0.04)
    z, (lost, spent) = found.racing.threshold, judge(found.racing, tables)
    assert found.racing == Racing(trials=32, threshold=z) and (found.n_images, found.level) == (300, 0.95)
    assert found.n_dropped == lost > 0 and found.n_evaluations == spent
    assert found.bound == pytest.approx(beta.ppf(0.95, lost + 1, 300 - lost)) and found.bound <= 0.04
    below = round(z - 0.1, 1)
    with pytest.raises(ValueError, match="thresholds must include one"):
        calibrate(race, tables, error=0.04, thresholds=[below])
    assert calibrate(race, tables, error=0.04, thresholds=[1e-6, below, z, 5]) == found
    assert calibrate(race, tables, error=0.04, thresholds=[5, 4]).racing.threshold == 4
    checked, (lost, spent) = check_threshold(found.racing, others, level=0.9), judge(found.racing, others)
    assert (checked.n_images, checked.n_dropped, checked.n_evaluations) == (100, lost, spent)
    assert checked.bound == pytest.approx(beta.ppf(0.9, lost + 1, 100 - lost))
    assert spent < judge(Racing(trials=32), others)[1], "it is cheaper than the cautious race"


def test_the_first_failure_ends_a_calibration_although_a_smaller_threshold_would_pass():
    """The smallest drops the rival before it is far ahead for a while, after 16 trials."""
    race, block, order = Racing(32, antithetic=False), np.arange(32) // 8, np.argsort(nested_positions(32)[:8])
    rival = np.choose(block, [1.0, -100, 200, 200])
    rival[order] += np.tile([2.0, -2.0], 4)
    tables = np.tile([np.zeros(32), rival], (300, 1, 1))
    dropped = [check_threshold(replace(race, threshold=z), tables).n_dropped for z in (5, 2, 0.5)]
    assert dropped == [0, 300, 0]
    assert calibrate(race, tables, thresholds=[5, 2, 0.5]).racing.threshold == 5


def test_calibration_refuses_what_it_cannot_judge(many):
    with pytest.raises(ValueError, match="tables must be of more images to bound an error of 0.01, got 298"):
        calibrate(Racing(trials=32), many[:298])
    holes = np.where(many == many[0, 0, 0], np.nan, many)
    for wrong in (many[0], many[:, :, :30], holes):
        with pytest.raises(ValueError, match="tables must be complete"):
            calibrate(Racing(trials=32), wrong)
    with pytest.raises(ValueError, match="calibrate first"):
        check_threshold(Racing(trials=32), many)


STORED = {"trials": 128, "repeats": 1, "seed": 0, "prior_pairs": 8, "antithetic": True, "threshold": 2.3}


def test_preparing_takes_the_models_threshold_where_none_is_given_and_it_is_of_the_same_race(gaussian, monkeypatch):
    model = SimpleNamespace(schedule=range(1000), calibration=STORED)
    assert Racing(budget=50).prepare(model, ["a"]) == Racing(threshold=2.3, budget=50)
    given = [Racing(threshold=4.0), Racing(confidence=0.9), Racing(confidence=0.99)]
    others = [Racing(50), Racing(seed=1), Racing(repeats=2), Racing(prior_pairs=0), Racing(antithetic=False)]
    for race in (*given, *others):
        assert race.prepare(model, ["a"]) == race
    for stored in (None, {"threshold": 2.3}):
        assert Racing().prepare(SimpleNamespace(schedule=range(1000), calibration=stored), ["a"]) == Racing()
    few = SimpleNamespace(schedule=range(50), calibration=STORED)
    assert Racing().prepare(few, ["a"]) == Racing(50), "the threshold is of 128 trials"
    assert DiffusionClassifier(gaussian).strategy_ == Racing()
    monkeypatch.setattr(gaussian, "calibration", STORED)
    assert DiffusionClassifier(gaussian).strategy_ == Racing(threshold=2.3)
