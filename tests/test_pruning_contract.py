"""The promises that every pruning strategy keeps, on made-up tables of seven classes."""

import pickle
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffclf import DiffusionClassifier
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.pruning import Exhaustive, Hierarchical, Racing, Shortlist, Staged, Subset, Within, run_stored
from diffclf.search import ErrorSource, compute_errors, watch

NAMES = list("abcdefg")
TREE = {"abc": {"ab": ["a", "b"], "only c": ["c"]}, "defg": ["d", "e", "f", "g"]}
MODEL = SimpleNamespace(schedule=range(1000), calibration=None)
SCORES = torch.tensor([0.1, 0.8, 0.3, 0.9, 0.2, 0.5, 0.0])


def scores_of(pixels):
    return pixels[0, 0].numpy()


RACE = Racing(trials=40, threshold=1.5)
TWICE = Racing(trials=24, threshold=1.5, repeats=2)
STRATEGIES = {
    "exhaustive": Exhaustive(12),
    "exhaustive, repeats": Exhaustive(12, repeats=2),
    "staged, official": Staged((3, 7, 30), (4, 2, 1)),
    "staged, nested": Staged((3, 7, 30), (4, 2, 1), "nested"),
    "staged, random": Staged((3, 7, 30), (4, 2, 1), "random"),
    "staged, repeats": Staged((3, 12), (2, 1), repeats=3),
    "staged, random, repeats": Staged((3, 12), (2, 1), "random", repeats=2),
    "race, cautious": Racing(trials=40),
    "race, threshold": RACE,
    "race, budget": Racing(trials=40, threshold=1.5, budget=150),
    "race, repeats": TWICE,
    "race, not antithetic": Racing(trials=40, threshold=1.5, antithetic=False),
    "subset of a race": Subset((1, 3, 4), RACE),
    "shortlist": Shortlist(3, scores_of, RACE),
    "tree": Hierarchical(TREE, RACE, RACE),
    "tree, few trials for the nodes": Hierarchical(TREE, TWICE, replace(TWICE, trials=16), level_trials=10),
    "tree, stages below": Hierarchical(TREE, Staged((8, 40), (2, 1), "random"), RACE, level_trials=20),
    "race in a range": Within(0.3, 0.9, RACE),
    "shortlist of a tree": Shortlist(4, scores_of, Hierarchical(TREE, RACE, RACE)),
}


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES)
def strategy(request):
    return request.param


def ready(strategy, order=range(7)):
    """The strategy as it is run on one image, with the classes in some order."""
    order = list(order)
    if isinstance(strategy, Subset):
        strategy = replace(strategy, rows=tuple(np.flatnonzero(np.isin(order, strategy.rows)).tolist()))
    return strategy.prepare(MODEL, [NAMES[i] for i in order]).for_image(SCORES[order].expand(3, 1, 7))


def table(strategy, means):
    """Errors with these means, noise of their own and a larger one that all rows share; the last rows are nodes."""
    rng = np.random.default_rng(int(1000 * np.abs(means).sum()))
    shape = len(means), len(strategy.trial_list())
    return (np.array(means)[:, None] + rng.normal(0, 5, shape[1]) + rng.normal(0, 1, shape)).astype(np.float32)


def tables(strategy):
    """Tables of near classes, of far ones and in between."""
    rng = np.random.default_rng(0)
    for spread in (0.1, 0.3, 1, 3, 10):
        yield table(strategy, rng.normal(0, spread, 7 + len(strategy.more_prompts())))


def last_of(strategy):
    """The strategy that is run in the end."""
    return last_of(strategy.then) if hasattr(strategy, "then") else strategy


def test_a_run_asks_for_every_entry_once_and_ends(strategy):
    """Also when half of its entries are known at the start."""
    strategy = ready(strategy)
    for errors in tables(strategy):
        whole = run_stored(strategy, errors)
        assert 0 < (~np.isnan(whole)).sum() <= strategy.evaluations(7)
        for share in (0, 0.5):
            known = np.where(np.random.default_rng(1).random(errors.shape) < share, whole, np.nan)
            while (mask := strategy.next(known.copy())) is not None:
                assert mask.shape == errors.shape and mask.dtype == bool
                assert mask.any() and np.isnan(known[mask]).all()
                known[mask] = errors[mask]
            np.testing.assert_array_equal(known, whole)
        errors.flags.writeable = False
        assert strategy.next(errors) is None, "everything is known"
        if isinstance(strategy, Subset):
            rows = list(strategy.rows)
            np.testing.assert_array_equal(whole[rows], run_stored(strategy.then, errors[rows]))
            assert np.isnan(np.delete(whole, rows, axis=0)).all()


def test_evaluations_are_those_of_an_image_whose_classes_are_all_alike(strategy):
    alike = np.ones((7 + len(strategy.more_prompts()), len(strategy.trial_list())), dtype=np.float32)
    spent, most = (~np.isnan(run_stored(ready(strategy), alike))).sum(), strategy.evaluations(7)
    if isinstance(strategy, Racing) and strategy.budget:
        assert most == strategy.budget and most - 7 < spent <= most
    else:
        assert spent == most


def test_permuting_the_prompts_permutes_the_run(strategy):
    for seed, errors in enumerate(tables(ready(strategy))):
        order = np.random.default_rng(seed).permutation(7)
        rows = [*order, *range(7, len(errors))]
        plain, permuted = ready(strategy), ready(strategy, order)
        run, other = run_stored(plain, errors), run_stored(permuted, errors[rows])
        np.testing.assert_array_equal(other, run[rows])
        assert sorted(order[permuted.undecided(other)]) == plain.undecided(run).tolist()


def test_the_trials_are_those_of_the_strategy_that_is_run_in_the_end(strategy):
    last = last_of(strategy)
    n = last.n if isinstance(last, Exhaustive) else int(np.max(last.trials))
    for n_timesteps in (1000, 50):
        trials = strategy.trial_list(n_timesteps)
        assert len(trials) == n * last.repeats == len(set(trials.noises.tolist()))
        assert trials.timesteps.min() >= 0 and n_timesteps / 2 < trials.timesteps.max() < n_timesteps
        whole = strategy.then.trial_list(n_timesteps) if isinstance(strategy, Within) else trials
        assert whole.starts_with(last.trial_list(n_timesteps)) and trials.starts_with(trials[:5])
    for refused in (strategy.trial_list, lambda n_timesteps: strategy.evaluations(7, n_timesteps)):
        with pytest.raises(ValueError, match=f"trials must be at most the model's {n - 1} timesteps, got {n}"):
            refused(n - 1)


def test_strategies_are_values(strategy):
    for value in (strategy, ready(strategy)):
        copy = pickle.loads(pickle.dumps(value))
        assert copy == value and hash(copy) == hash(value) and repr(copy) == repr(value)
        with pytest.raises(FrozenInstanceError):
            copy.trials = 3
        if not isinstance(strategy, Shortlist):
            assert ready(eval(repr(value))) == ready(strategy)
    assert sum(ready(strategy) == ready(other) for other in STRATEGIES.values()) == 1
    assert Staged([25, 250], [5, 1]) == Staged((np.int64(25), 250), (5, 1)) == Staged()


def test_preparing_twice_is_preparing_once(strategy):
    stored = {"trials": 40, "repeats": 1, "seed": 0, "prior_pairs": 8, "antithetic": True, "threshold": 2.5}
    for model in (MODEL, SimpleNamespace(schedule=range(1000), calibration=stored)):
        once = strategy.prepare(model, NAMES)
        assert once.prepare(model, NAMES) == once and once.more_prompts() == strategy.more_prompts()


def test_undecided_are_the_survivors_if_there_are_several(strategy):
    strategy = ready(strategy)
    for errors in tables(strategy):
        counts = (~np.isnan(run_stored(strategy, errors)[:7])).sum(axis=1)
        undecided = strategy.undecided(run_stored(strategy, errors))
        assert len(undecided) != 1 and (counts[undecided] == counts.max()).all()
    errors = table(strategy, [100, 0, 200, 0, 300, 400, 500, 0, 0, 0, 100][: len(errors)])
    for one, twin in [(1, 3), (7, 8)][: 1 + (len(errors) > 7)]:  # two classes, and the nodes above them
        errors[twin] = errors[one]
    several = [1, 3] if isinstance(last_of(strategy), Racing) else []
    assert strategy.undecided(run_stored(strategy, errors)).tolist() == several
    errors[3] += 50
    counts = (~np.isnan(run_stored(strategy, errors)[:7])).sum(axis=1)
    assert strategy.undecided(run_stored(strategy, errors)).tolist() == [] and counts[1] == counts.max()


def test_only_races_have_rounds(strategy):
    if not isinstance(strategy, Racing | Within):
        with pytest.raises(ValueError, match=r"pruning must be Racing\(...\) for a race, got "):
            ready(strategy).rounds(next(tables(strategy)))


@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_live_run_is_the_stored_run(strategy, batch_size):
    """On a model whose labels are the classes and the nodes; its images hold scores, too."""
    rng = np.random.default_rng(0)
    nodes = ["abc", "defg", "ab", "only c"]
    known = GaussianMixtureModel(rng.normal(0, 0.1, (11, 147)), np.full(11, 0.5), labels=[*NAMES, *nodes])
    images = torch.from_numpy(rng.uniform(0, 1, (3, 3, 7, 7))).float()
    clf = DiffusionClassifier(known, NAMES, pruning=strategy, batch_size=batch_size)
    n_rows, trials = 7 + len(strategy.more_prompts()), strategy.trial_list()
    stored = compute_errors(ErrorSource(known, range(n_rows), trials), images, desc=None)
    for image, table, found in zip(images, stored, clf.error_tables(images), strict=True):
        own = strategy.prepare(known, NAMES).for_image(2 * image - 1)
        expected = run_stored(own, table)
        np.testing.assert_allclose(found.errors, expected[:7], rtol=1e-5)
        assert found.n_evaluations == (~np.isnan(expected)).sum()
        assert found.undecided == tuple(NAMES[row] for row in own.undecided(expected))
        if isinstance(strategy, Racing):
            source = ErrorSource(known, range(7), trials)
            watched = watch(source, image, own, "l2")
            for live, again, look in zip(watched, clf.race(image), own.rounds(expected), strict=True):
                assert source.n_evaluations == live.n_evaluations == look.n_evaluations, "while the race runs"
                assert live.survivors.tolist() == again.survivors.tolist() == look.survivors.tolist()
            assert look.finished and look.n_evaluations == found.n_evaluations


NOBODY = Racing(trials=40, threshold=1e9)


@pytest.mark.parametrize(
    "strategy",
    [
        *(Staged((10, 40), (7, 1), grid) for grid in ("official", "nested", "random")),
        Staged((10, 40), (9, 1)),
        Staged((5, 20), (7, 1), "random", repeats=2),
        NOBODY,
        Racing(trials=20, threshold=1e9, repeats=2, antithetic=False),
        Subset(tuple(range(7)), NOBODY),
        Shortlist(9, scores_of, Exhaustive(40)),
        Hierarchical(TREE, NOBODY, NOBODY),
    ],
)
def test_with_nothing_pruned_every_strategy_is_exhaustive_search(strategy):
    n_nodes = len(strategy.more_prompts())
    assert strategy.evaluations(7) == Exhaustive(40).evaluations(7) + 16 * n_nodes == 280 + 16 * n_nodes
    errors, strategy = table(strategy, np.arange(7.0 + n_nodes)), ready(strategy)
    np.testing.assert_array_equal(run_stored(strategy, errors)[:7], run_stored(Exhaustive(40), errors[:7]))
    assert strategy.undecided(errors).tolist() == []


def listed(scores):
    return Shortlist(2, scores_of, RACE).prepare(MODEL, NAMES).for_image(scores.expand(3, 1, len(scores)))


def test_a_shortlist_takes_the_earlier_prompts_of_the_same_score():
    assert listed(torch.zeros(7)) == Subset((0, 1), RACE) and listed(SCORES) == Subset((1, 3), RACE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Staged((25, 250), (5,)), r"one number per stage, got \(25, 250\) and \(5,\)"),
        (lambda: Staged((250, 25)), r"trials must increase from stage to stage, got \(250, 25\)"),
        (lambda: Staged(keep=(5, 2)), r"keep must not grow .* must end in 1, got \(5, 2\)"),
        (lambda: Staged(keep=(1, 5)), r"keep must not grow .* must end in 1, got \(1, 5\)"),
        (lambda: Staged((), ()), r"one number per stage, got \(\) and \(\)"),
        (lambda: Staged((2.5, 5)), "trials must be a whole number of at least 1, got 2.5"),
        (lambda: Staged(grid="paper"), r"grid must be one of \('official', 'nested', 'random'\), got 'paper'"),
        (lambda: Staged(repeats=1.5), "repeats must be a whole number of at least 1, got 1.5"),
        (lambda: Exhaustive(True), "n must be a whole number of at least 1, got True"),
        (lambda: Racing(prior_pairs=-1), "prior_pairs must be at least 0, got -1"),
        (lambda: Racing(1025), "trials must be at most 1024, got 1025"),
        (lambda: Racing(budget=0), "budget must be a whole number of at least 1, got 0"),
        (lambda: Racing(confidence=1.0), r"confidence must lie in \(0, 1\), got 1.0"),
        (lambda: Racing(threshold=0.0), "threshold must be above 0, got 0.0"),
        (lambda: Shortlist(0, len, RACE), "k must be a whole number of at least 1, got 0"),
        (lambda: Shortlist(2, None, RACE), "scorer must be a function of an image's pixels, got None"),
        (lambda: Hierarchical(TREE).next(np.zeros((11, 128))), "must be prepared for its classes"),
        (lambda: Shortlist(2, len, RACE).next(np.zeros((7, 40))), "must be made for an image"),
        (lambda: listed(SCORES[:4]), r"scorer must return 7 finite scores, one a prompt, got array\(\[0"),
        (lambda: listed(SCORES / 0), r"scorer must return 7 finite scores, .* nan\]"),
        (lambda: Racing(128).undecided(np.zeros((3, 100))), "errors must be of 128 trials, got 100"),
    ],
)
def test_impossible_strategies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
