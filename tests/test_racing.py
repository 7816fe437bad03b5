"""Races on made-up tables whose answers are known, and the statistics behind them."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import beta, t
from tiny import save_tiny_sd

from diffclf import DiffusionClassifier, Exhaustive, Racing, load_model
from diffclf.pruning import replay
from diffclf.racing import CALIBRATION, calibrated, collapsed_variance, moderated_variance
from diffclf.trials import nested_positions


def table(means, n_trials=128, sd=1.0, common=5.0, seed=0):
    """Errors with these means, noise of their own and a larger one that all prompts share."""
    rng = np.random.default_rng(seed)
    means = np.asarray(means, dtype=float)[:, None]
    shared = rng.normal(0, common, n_trials)
    return (means + shared + rng.normal(0, sd, (len(means), n_trials))).astype(np.float32)


# The trials


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_of_a_power_of_two_has_one_trial_in_each_part(seed):
    for k in range(11):
        parts = np.floor(nested_positions(2**k, seed) * 2**k)
        assert sorted(parts) == list(range(2**k))


def test_every_block_of_eight_has_one_trial_in_each_eighth():
    parts = np.floor(nested_positions(1000) * 8).astype(int).reshape(-1, 8)
    assert (np.sort(parts, axis=1) == np.arange(8)).all()


def test_positions_do_not_depend_on_how_many_are_asked_for_but_on_the_seed():
    np.testing.assert_array_equal(nested_positions(20, 3), nested_positions(1000, 3)[:20])
    first = np.array([nested_positions(8, seed) for seed in range(4000)])
    assert np.abs(first.mean(axis=0) - 0.5).max() < 0.02  # each position by itself is uniform: sd 0.0046
    assert np.abs(first.var(axis=0) - 1 / 12).max() < 0.004


def test_timesteps_are_the_positions_and_repeats_stand_together():
    timesteps = Racing(trials=100, repeats=2, seed=4).timesteps(1000)
    expected = np.floor(nested_positions(100, 4) * 1000)
    np.testing.assert_array_equal(timesteps.reshape(100, 2), np.stack([expected, expected], axis=1))


# The standard error


def test_moderated_variance_by_hand():
    # the geometric mean of 1 and 100 is 10, worth 4 pairs beside 12: (4 * 10 + 12 v) / 16
    np.testing.assert_allclose(moderated_variance([1.0, 100.0], 12, 4), [(40 + 12) / 16, (40 + 1200) / 16])
    np.testing.assert_allclose(moderated_variance([0.0, 2.0, 2.0], 4), [0, 2, 2])  # the best one's own does not count
    assert moderated_variance(np.zeros(3), 4).tolist() == [0, 0, 0]
    values = np.random.default_rng(0).random(20)
    moderated = moderated_variance(values, 8)
    assert (np.argsort(moderated) == np.argsort(values)).all() and np.ptp(moderated) < np.ptp(values)


def test_collapsed_variance_by_hand():
    assert collapsed_variance(np.array([1.0, 3.0, 10.0, 6.0])) == pytest.approx((4 + 16) / 16)
    # one pair and a group of three, 3/2 times its squared deviations from 2: 1.5 (1 + 0 + 1)
    assert collapsed_variance(np.array([1.0, 3.0, 1.0, 2.0, 3.0])) == pytest.approx((4 + 3) / 25)
    assert collapsed_variance(np.ones((2, 3, 8))).shape == (2, 3)


@pytest.mark.parametrize("n", [8, 9, 24])
def test_collapsed_variance_is_unbiased_for_independent_values_and_knows_about_strata(n):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, (20_000, n))
    assert collapsed_variance(noise).mean() == pytest.approx(4 / n, rel=0.02)
    trend = np.linspace(0, 100, n)  # what the timestep explains
    assert collapsed_variance(trend) < trend.var() / n / 4


def antithetic(rng, n_trials, odd, even):
    """Differences of one image: what eps and -eps do to them with opposite signs, and with equal ones."""
    block = np.arange(n_trials) // 8
    source = np.arange(n_trials) - 8 * (block % 2)
    return odd * rng.normal(size=n_trials)[source] * (-1) ** block + even * rng.normal(size=n_trials)[source]


def test_what_is_odd_in_the_noise_cancels_in_a_trial_and_its_mirror_image():
    behind = 0.5 + antithetic(np.random.default_rng(1), 64, odd=5, even=0)
    errors = np.stack([np.zeros(64), behind])
    knows, does_not = (list(Racing(trials=64, threshold=5.0, antithetic=a).rounds(errors)) for a in (True, False))
    for looks in (knows, does_not):
        assert looks[0].n_trials == 8 and looks[0].survivors.tolist() == [0, 1], "without mirror images all is noise"
    assert knows[1].n_trials == 16 and knows[1].survivors.tolist() == [0]
    assert knows[1].margins.max() < 1e-9 and knows[1].differences[1] == pytest.approx(0.5)
    assert does_not[1].survivors.tolist() == [0, 1], "who does not know that they are mirrored cannot see it"


@pytest.mark.parametrize("n", [8, 16, 32, 48, 80, 112])
def test_the_variance_is_that_of_the_mean_about_the_mean_of_all_trials(n):
    rng = np.random.default_rng(n)
    made = np.stack([antithetic(rng, 128, odd=2, even=1) for _ in range(20_000)])
    found, n_pairs = Racing()._variance(made[:, :n])
    true = (made[:, :n].mean(axis=1) - made.mean(axis=1)).var()
    assert n_pairs == (4 if n == 8 else n // 4)
    assert true * 0.95 < found.mean() < true * (1.1 if n == 8 else 1.05), "of single noises it is a little too large"


@pytest.mark.parametrize(("n", "whole"), [(9, 8), (15, 8), (20, 16), (30, 16), (47, 32)])
def test_trials_without_their_mirror_image_do_not_make_the_variance_too_small(n, whole):
    made = np.stack([antithetic(np.random.default_rng(i), 128, odd=1, even=1) for i in range(10_000)])
    found, _ = Racing()._variance(made[:, :n])
    np.testing.assert_array_equal(found, Racing()._variance(made[:, :whole])[0])
    assert found.mean() > 0.97 * (made[:, :n].mean(axis=1) - made.mean(axis=1)).var()


# The race


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
        expected = 2 * np.sqrt((own[row] + others) / 2)
        assert look.margins[row] == pytest.approx(expected)
        assert look.differences[row] == pytest.approx(d[row].mean())
        assert (row in look.survivors) == (d[row].mean() <= expected)
    assert look.survivors.tolist() == [0, 1]


def test_rivals_that_are_far_behind_cost_eight_trials_and_near_ones_more():
    errors = table([0, 40, 40, 0.5, 40])
    rounds = list(Racing(threshold=3.0).rounds(errors))
    assert rounds[0].survivors.tolist() == [0, 3] and rounds[0].n_evaluations == 40
    assert rounds[-1].survivors.tolist() == [0] and rounds[-1].finished
    known = replay(Racing(threshold=3.0), errors)
    counts = (~np.isnan(known)).sum(axis=1)
    assert counts.tolist()[1:3] == [8, 8] and counts[0] == counts[3] == rounds[-1].n_trials
    assert rounds[-1].n_evaluations == counts.sum()


def test_no_pair_is_evaluated_twice_and_masks_follow_the_looks():
    race, errors = Racing(trials=64, threshold=2.0), table([0, 0.2, 0.4, 3, 9], 64)
    known, total = np.full_like(errors, np.nan), 0
    while (mask := race.next(known)) is not None:
        assert mask.any() and np.isnan(known[mask]).all()
        known[mask] = errors[mask]
        total += mask.sum()
    assert total == (~np.isnan(known)).sum() == list(race.rounds(errors))[-1].n_evaluations
    np.testing.assert_array_equal(race.survivors(known), race.survivors(errors))


def test_a_race_goes_on_where_it_was_interrupted():
    """Half of a heat is known: only the rest of it is asked for."""
    race, errors = Racing(trials=64, threshold=2.0), table([0, 0.2, 0.4, 3, 9], 64)
    known = np.full_like(errors, np.nan)
    known[:, :3] = errors[:, :3]
    mask = race.next(known)
    assert mask[:, 3:8].all() and mask.sum() == 25
    np.testing.assert_array_equal(replay(race, errors), replay(race, replay(race, errors)))


def test_nothing_is_dropped_before_eight_trials():
    race = Racing(trials=6, threshold=0.01)
    (look,) = race.rounds(table([0, 100, 200], 6))
    assert look.n_trials == 6 and look.survivors.tolist() == [0] and race.looks() == [6]
    (look,) = Racing(trials=100, threshold=0.01, budget=21).rounds(table([0, 100, 200], 100))
    assert look.n_trials == 7 and look.survivors.tolist() == [0, 1, 2] and np.isinf(look.margins).all()


def test_looks_are_whole_blocks_four_to_a_doubling():
    assert Racing(trials=100).looks() == [8, 16, 32, 48, 64, 80, 96, 100]
    assert Racing(trials=500).looks()[5:] == [80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 500]
    assert Racing(trials=100, antithetic=False).looks() == [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 100]


def test_a_threshold_that_drops_nothing_is_exhaustive_search():
    errors = table([0, 1, 2, 3])
    assert not np.isnan(replay(Racing(threshold=1e9), errors)).any()
    assert Racing(threshold=1e9).survivors(errors).tolist() == [int(errors.mean(1).argmin())]
    assert Racing().evaluations(7) == Exhaustive(128).evaluations(7) == 7 * 128


def test_permuting_prompts_permutes_the_race():
    rng = np.random.default_rng(1)
    for seed in range(20):
        errors, order = table(rng.normal(0, 1, 6), seed=seed), rng.permutation(6)
        race = Racing(threshold=2.0)
        np.testing.assert_array_equal(replay(race, errors[order]), replay(race, errors)[order])


def test_prompts_that_cannot_be_told_apart_are_a_tie():
    errors = table([0, 0, 50])
    errors[1] = errors[0]
    assert Racing().survivors(errors).tolist() == [0, 1]
    near = table([0, 0.01, 50], sd=3)
    assert Racing(budget=60).survivors(near).tolist() == [0, 1]


def test_a_budget_is_kept_and_one_below_the_number_of_prompts_refused():
    errors = np.repeat(table([0]), 4, axis=0)  # nobody is ever dropped
    for budget in (4, 5, 31, 32, 50, 300, 1000):
        race = Racing(budget=budget)
        known = replay(race, errors)
        assert (~np.isnan(known)).sum() <= min(budget, 512)
        assert (~np.isnan(known)).sum() > min(budget, 512) - 4
        assert race.evaluations(4) == min(budget, 512)
    for refused in (lambda r: r.evaluations(4), lambda r: r.next(errors), lambda r: list(r.rounds(errors))):
        with pytest.raises(ValueError, match="budget must give each of the 4 prompts a trial, 4 evaluations, got 3"):
            refused(Racing(budget=3))


def test_repeats_are_averaged_before_the_race():
    errors = table([0, 0.5, 1, 9], 32, seed=3)
    twice = np.repeat(errors, 2, axis=1)
    twice[:, ::2] += 0.25
    twice[:, 1::2] -= 0.25
    once, doubled = Racing(trials=32, threshold=2.0), Racing(trials=32, threshold=2.0, repeats=2)
    for a, b in zip(once.rounds(errors), doubled.rounds(twice), strict=True):
        assert a.survivors.tolist() == b.survivors.tolist() and 2 * a.n_evaluations == b.n_evaluations
        np.testing.assert_allclose(a.margins, b.margins, rtol=1e-4)
    assert doubled.evaluations(4) == 256


def test_the_cautious_threshold_is_students_shared_by_rivals_and_looks():
    errors = table([0, 1, 2], 100)
    look = next(Racing(trials=100, confidence=0.95).rounds(errors))
    z = t(4).isf(0.05 / (2 * 7))  # two rivals, seven looks before the last; 8 trials are 4 pairs
    d = (errors - errors[look.best])[:, np.argsort(nested_positions(100)[:8])]
    np.testing.assert_allclose(look.margins, z * np.sqrt(collapsed_variance(d)), rtol=1e-5)
    plain = next(Racing(trials=100, confidence=0.95, antithetic=False).rounds(errors))
    z = t(4).isf(0.05 / (2 * 10))
    np.testing.assert_allclose(plain.margins, z * np.sqrt(collapsed_variance(d) * (1 - 8 / 100)), rtol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_confidence_holds_where_it_is_hardest_to_keep(mirrored):
    """Six prompts, differences of the order of their standard errors: the full winner is dropped in 5% at most."""
    rng = np.random.default_rng(0)

    def made(seed):
        if not mirrored:
            return table(rng.normal(0, 0.2, 6), 64, seed=seed)
        return np.stack([mean + antithetic(rng, 64, odd=2, even=0.7) for mean in rng.normal(0, 0.2, 6)])

    def dropped(race, n_images):
        tables = map(made, range(n_images))
        return sum(errors.mean(axis=1, dtype=np.float64).argmin() not in race.survivors(errors) for errors in tables)

    lost = dropped(Racing(trials=64, confidence=0.95), 1500)
    assert lost == 0 or beta.ppf(0.001, lost, 1500 - lost + 1) < 0.05
    # and a threshold without regard to looks and rivals does not keep it: the test can tell
    assert dropped(Racing(trials=64, threshold=1.0), 300) > 0.1 * 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior_pairs": -1}, "prior_pairs must be at least 0, got -1"),
        ({"trials": 0}, "trials must be a whole number of at least 1, got 0"),
        ({"trials": 1025}, "trials must be at most 1024, got 1025"),
        ({"repeats": 1.5}, "repeats must be a whole number of at least 1, got 1.5"),
        ({"budget": 0}, "budget must be a whole number of at least 1, got 0"),
        ({"confidence": 1.0}, r"confidence must lie in \(0, 1\), got 1.0"),
        ({"threshold": 0.0}, "threshold must be above 0, got 0.0"),
    ],
)
def test_impossible_races_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Racing(**arguments)


def test_more_trials_than_timesteps_are_refused():
    with pytest.raises(ValueError, match="trials must be at most the model's 50 timesteps, got 128"):
        Racing().timesteps(50)
    with pytest.raises(ValueError, match="errors must be of 128 trials, got 100"):
        Racing().survivors(np.zeros((3, 100)))


# Calibration


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(5)
    return np.stack([table(rng.normal(0, 1, 4), 32, seed=seed) for seed in range(400)])


def test_calibration_takes_the_smallest_threshold_before_the_first_failure(many):
    race = Racing(trials=32)
    found = race.calibrate(many, error=0.03)
    z = found.racing.threshold
    assert found.bound <= 0.03
    lost = sum(t.mean(1, dtype=np.float64).argmin() not in found.racing.survivors(t) for t in many)
    assert found.n_dropped == lost
    assert found.bound == pytest.approx(beta.ppf(0.95, lost + 1, len(many) - lost))
    below = round(z - 0.1, 1)
    with pytest.raises(ValueError, match="thresholds must include one"):
        race.calibrate(many, error=0.03, thresholds=[below])
    assert found.n_evaluations == np.mean([list(found.racing.rounds(t))[-1].n_evaluations for t in many])
    # a failure ends the search, although smaller ones might pass by chance
    assert race.calibrate(many, error=0.03, thresholds=[5, z, below, 1e-6]).racing.threshold == z


def test_a_calibrated_race_is_cheaper_than_a_cautious_one_and_is_checked_on_other_images(many):
    found = Racing(trials=32).calibrate(many[:200], error=0.05)
    other = found.racing.check(many[200:])
    assert other.n_images == 200 and other.racing == found.racing
    cautious = np.mean([list(Racing(trials=32).rounds(t))[-1].n_evaluations for t in many[200:]])
    assert other.n_evaluations < cautious
    with pytest.raises(ValueError, match="calibrate first"):
        Racing(trials=32).check(many)


def test_calibration_refuses_what_it_cannot_judge(many):
    with pytest.raises(ValueError, match="tables must be of more images to bound an error of 0.01, got 200"):
        Racing(trials=32).calibrate(many[:200])
    holes = many.copy()
    holes[0, 0, 0] = np.nan
    for wrong in (many[0], many[:, :, :30], holes):
        with pytest.raises(ValueError, match="tables must be complete"):
            Racing(trials=32).calibrate(wrong)


# With a model


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return load_model(save_tiny_sd(tmp_path_factory.mktemp("racing") / "sd"))


PROMPTS = {"sneaker": "a photo of a red sneaker", "bag": "a bag", "coat": ["the blue coat", "a blue coat"]}


def pictures(n):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_live_race_is_its_replay_round_by_round(sd):
    race = Racing(trials=40, threshold=1.5)
    clf = DiffusionClassifier(sd, PROMPTS, pruning=race, batch_size=16)
    every = DiffusionClassifier(sd, PROMPTS, pruning=Racing(trials=40, threshold=1e9), batch_size=16)
    images = pictures(5)
    for image, raced, whole in zip(images, clf.error_tables(images), every.error_tables(images), strict=True):
        expected = replay(race, whole.errors)
        np.testing.assert_array_equal(np.isnan(raced.errors), np.isnan(expected))
        np.testing.assert_allclose(raced.errors, expected, rtol=1e-5)
        shown = list(clf.race(image))
        for live, replayed in zip(shown, race.rounds(expected), strict=True):
            np.testing.assert_array_equal(live.survivors, replayed.survivors)
            assert (live.n_trials, live.n_evaluations) == (replayed.n_trials, replayed.n_evaluations)
        assert shown[-1].finished and shown[-1].n_evaluations == raced.n_evaluations


def test_rounds_come_while_the_race_runs(sd):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=Racing(trials=40, threshold=1e9))
    rounds = clf.race(pictures(1))
    assert next(rounds).n_trials == 8
    assert clf._evaluator.n_evaluations == 4 * 8


def test_races_of_many_images_do_not_depend_on_how_many_are_in_flight(sd):
    images = pictures(9)
    race = Racing(trials=40, threshold=1.5)
    one, many = (DiffusionClassifier(sd, PROMPTS, pruning=race, batch_size=n) for n in (1, 64))
    for a, b in zip(one.error_tables(images), many.error_tables(images), strict=True):
        np.testing.assert_allclose(a.errors, b.errors, rtol=1e-5)


def test_batches_stay_full_while_there_are_images(sd, monkeypatch):
    sizes, denoise = [], sd.denoise

    def spy(x_t, t, cond):
        sizes.append(len(x_t))
        return denoise(x_t, t, cond)

    monkeypatch.setattr(sd, "denoise", spy)
    clf = DiffusionClassifier(sd, PROMPTS, pruning=Racing(trials=40, threshold=1.0), batch_size=16)
    spent = [table.n_evaluations for table in clf.error_tables(pictures(30))]
    assert max(spent) > 2 * min(spent) == 64, "some races must be short and some long"
    assert sum(sizes) == sum(spent)
    partly = [size for size in sizes if size < 16]
    assert len(partly) <= len(Racing(trials=40).looks()), "only at the end, once a round"


def test_an_undecided_race_is_a_tie_of_classes(sd):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=Racing(budget=4))
    table = clf.errors(pictures(1))
    assert table.tie == ("sneaker", "bag", "coat") and table.n_evaluations == 4
    assert table.predicted in table.tie
    with pytest.raises(ValueError, match="budget must give each of the 4 prompts a trial"):
        DiffusionClassifier(sd, PROMPTS, pruning=Racing(budget=3))


def test_only_a_race_can_be_watched(sd):
    with pytest.raises(ValueError, match=r"pruning must be Racing\(...\) for a race, got Exhaustive"):
        DiffusionClassifier(sd, PROMPTS, pruning=Exhaustive(4)).race(pictures(1))
    with pytest.raises(ValueError, match="race takes one image, got 2"):
        DiffusionClassifier(sd, PROMPTS, pruning=Racing()).race(pictures(2))


def test_a_built_in_model_brings_its_threshold_for_the_race_it_was_calibrated_on(tmp_path, monkeypatch):
    folder = save_tiny_sd(tmp_path / "models" / "tiny")
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path))
    model = load_model("tiny")
    assert DiffusionClassifier(model, PROMPTS).pruning == Racing()
    stored = {"fingerprint": model.fingerprint, "trials": 128, "repeats": 1, "seed": 0}
    stored |= {"prior_pairs": 8, "antithetic": True, "threshold": 2.3}
    (folder / CALIBRATION).write_text(json.dumps(stored))
    assert DiffusionClassifier(model, PROMPTS).pruning == Racing(threshold=2.3)
    assert calibrated(Racing(budget=50), model) == Racing(threshold=2.3, budget=50)
    others = {"trials": 50, "seed": 1, "repeats": 2, "threshold": 4.0, "prior_pairs": 0, "antithetic": False}
    for name, value in others.items():
        assert calibrated(Racing(**{name: value}), model) == Racing(**{name: value})
    (folder / CALIBRATION).write_text(json.dumps(stored | {"fingerprint": "other weights"}))
    assert calibrated(Racing(), model) == Racing()
