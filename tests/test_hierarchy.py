"""Label trees: branches race first, and the classes below a dropped branch cost nothing and cannot win."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffclf import DiffusionClassifier, Exhaustive, Hierarchical, Racing, Staged
from diffclf.pruning import run_stored

NAMES = [f"{colour} {item}" for item in ("sneaker", "bag", "coat") for colour in ("red", "green")]
TREE = {f"a photo of a {item}": [n for n in NAMES if n.endswith(item)] for item in ("sneaker", "bag", "coat")}
RACE = Racing(trials=32, threshold=2.0)


def prepared(tree, names=NAMES, n_timesteps=1000):
    return tree.prepare(SimpleNamespace(schedule=range(n_timesteps), calibration=None), names)


def errors_of(means, n_trials=32):
    """Errors with these means and a noise that is shared, and far larger than their own."""
    rng = np.random.default_rng(0)
    own = 0.5 * rng.standard_normal((len(means), n_trials))
    return (np.array(means)[:, None] + 5 * rng.standard_normal(n_trials) + own).astype(np.float32)


@pytest.mark.parametrize(("then", "own"), [(RACE, None), (Staged((8, 32), (1, 1), "random"), [8, 32])])
def test_only_the_best_branch_is_opened(then, own):
    tree = prepared(Hierarchical(TREE, then, RACE))
    errors = errors_of([9, 9, 4, 0, 9, 9, 20, 10, 20])
    counts = (~np.isnan(run_stored(tree, errors))).sum(axis=1)
    assert counts[6:].tolist() == [8, 8, 8] and counts[[0, 1, 4, 5]].sum() == 0
    np.testing.assert_array_equal(counts[2:4], own or (~np.isnan(run_stored(RACE, errors[2:4]))).sum(axis=1))


@pytest.mark.parametrize(("level_trials", "expected"), [(8, 8), (10, 16), (16, 16), (20, 32), (40, 32)])
def test_branches_that_cannot_be_told_apart_are_all_opened_at_the_next_look(level_trials, expected):
    errors = errors_of([0, 9, 9, 9, 9, 9, 10, 10, 30])
    errors[7] = errors[6]
    tree = Hierarchical(TREE, RACE, RACE, level_trials)
    known = ~np.isnan(run_stored(prepared(tree), errors))
    assert known[6:].sum(axis=1).tolist() == [expected, expected, 8]
    assert known[:4].any(axis=1).all() and not known[4:6].any()
    assert tree.evaluations(6) == prepared(tree).evaluations(6) == 3 * expected + 6 * 32


def test_a_single_branch_is_opened_without_a_race_and_levels_may_differ_in_depth():
    nested = {"root": {"shoes": ["a", "b"], "others": {"bags": ["c"], "coats": ["d", "e"]}}}
    tree = Hierarchical(nested, RACE, RACE)
    assert tree.more_prompts() == ["root", "shoes", "others", "bags", "coats"]
    search = prepared(tree, ["a", "b", "c", "d", "e", "e"])  # a class with two prompts
    known = run_stored(search, errors_of([30, 30, 30, 0, 9, 9, 0, 20, 5, 20, 4]))
    assert np.flatnonzero(~np.isnan(known).all(axis=1)).tolist() == [3, 4, 5, 7, 8, 9, 10]


def test_a_model_of_few_timesteps_shortens_the_races_of_nodes_and_classes():
    tree = prepared(Hierarchical(TREE), n_timesteps=50)
    assert len(tree.trial_list(50)) == 50 and tree.evaluations(6, 50) == 3 * 16 + 6 * 50
    assert not np.isnan(run_stored(tree, np.ones((9, 50), dtype=np.float32))[:6]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tree": {"shoes": ["a"]}}, "tree must name each of the 2 classes once, got 'b' 0 times"),
        ({"tree": {"shoes": ["a", "b"], "bags": ["b"]}}, "tree must name each of the 2 classes once, got 'b' 2 times"),
        ({"tree": {"shoes": ["a", "b", "c"]}}, "got 'c' which is no class"),
        ({"tree": {"shoes": ["a", "b"], "bags": []}}, "tree must have classes below every node, got none below 'bags'"),
        ({"tree": {"x": ["a", "b"]}, "then": Exhaustive(32)}, "race must take the first trials of then"),
        ({"tree": ["a", "b"]}, "tree must map prompts of inner nodes"),
        ({"tree": {"x": {"y": ["a"]}, "y": ["b"]}}, "tree must have every node once, got 'y' twice"),
        ({"tree": TREE, "level_trials": 4}, "level_trials must be a whole number of at least 8, got 4"),
    ],
)
def test_trees_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepared(Hierarchical(**arguments), ["a", "b"])


def test_the_nodes_of_a_class_conditional_model_are_labels(gaussian):
    with pytest.raises(ValueError, match="label must be one of the model's 2 labels, got 'clothes'"):
        DiffusionClassifier(gaussian, pruning=Hierarchical({"clothes": gaussian.labels}))
