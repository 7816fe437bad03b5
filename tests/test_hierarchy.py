"""Label trees: branches race first, and what lies below a dropped one costs nothing and cannot win."""

import numpy as np
import pytest
import torch
from tiny import save_tiny_dit, save_tiny_sd

from diffclf import DiffusionClassifier, Exhaustive, Hierarchical, Racing, Shortlist, Staged, load_model
from diffclf.pruning import replay

NAMES = [f"{colour} {item}" for item in ("sneaker", "bag", "coat") for colour in ("red", "green")]
PROMPTS = {name: f"a photo of a {name}" for name in NAMES}
TREE = {f"a photo of a {item}": [n for n in NAMES if n.endswith(item)] for item in ("sneaker", "bag", "coat")}
RACE = Racing(trials=32, threshold=2.0)


def errors_of(means, n_trials=32, seed=0):
    """Errors with these means and a noise that is shared, and far larger than their own."""
    rng = np.random.default_rng(seed)
    means = np.asarray(means, dtype=float)[:, None]
    own = 0.5 * rng.standard_normal((len(means), n_trials))
    return (means + 5 * rng.standard_normal(n_trials) + own).astype(np.float32)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return load_model(save_tiny_sd(tmp_path_factory.mktemp("hierarchy") / "sd"))


def pictures(n):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_only_the_best_branch_is_opened():
    tree = Hierarchical(TREE, then=RACE, race=RACE).bind(NAMES)
    assert tree.children == {6: (0, 1), 7: (2, 3), 8: (4, 5)} and tree.roots == (6, 7, 8)
    errors = errors_of([9, 9, 4, 0, 9, 9, 20, 10, 20])
    known = ~np.isnan(replay(tree, errors))
    assert known[6:].sum(axis=1).tolist() == [8, 8, 8]
    assert known[[0, 1, 4, 5]].sum() == 0 and known[[2, 3]].any(axis=1).all()
    assert tree.survivors(replay(tree, errors)).tolist() == [3]


def test_branches_that_cannot_be_told_apart_are_all_opened_after_a_few_trials():
    errors = errors_of([0, 9, 9, 9, 9, 9, 10, 10, 30])
    errors[7] = errors[6]
    tree = Hierarchical(TREE, then=Exhaustive(32), race=Racing(trials=16, threshold=2.0), level_trials=16)
    with pytest.raises(ValueError, match="race must take the first trials of then"):
        tree.bind(NAMES)
    tree = Hierarchical(TREE, then=RACE, race=RACE, level_trials=16).bind(NAMES)
    known = ~np.isnan(replay(tree, errors))
    assert known[6:].sum(axis=1).tolist() == [16, 16, 8]
    assert known[:4].any(axis=1).all() and not known[4:6].any()


def test_a_single_branch_is_opened_without_a_race_and_levels_may_differ_in_depth():
    nested = {"root": {"shoes": ["a", "b"], "others": {"bags": ["c"], "coats": ["d", "e"]}}}
    found = Hierarchical(nested, then=RACE, race=RACE)
    assert found.nodes() == ["root", "shoes", "others", "bags", "coats"]
    tree = found.bind(["a", "b", "c", "d", "e", "e"])  # a class with two prompts
    assert tree.children == {6: (7, 8), 7: (0, 1), 8: (9, 10), 9: (2,), 10: (3, 4, 5)}
    known = ~np.isnan(replay(tree, errors_of([30, 30, 30, 0, 9, 9, 0, 20, 5, 20, 4])))
    assert known.any(axis=1).tolist() == [False, False, False, True, True, True, False, True, True, True, True]
    assert found.evaluations(6, 1000) == 5 * 16 + 6 * 32 >= known.sum()


def test_a_tree_that_drops_nothing_decides_as_without_it(sd):
    images = pictures(4)
    nobody = Racing(trials=24, threshold=1e6)  # drops nothing before its last trial
    for threshold in (0.5, 1.5):
        then = Racing(trials=24, threshold=threshold)
        tree = Hierarchical(TREE, then=then, race=nobody, level_trials=8)
        with_tree = list(DiffusionClassifier(sd, PROMPTS, pruning=tree).error_tables(images))
        without = list(DiffusionClassifier(sd, PROMPTS, pruning=then).error_tables(images))
        for a, b in zip(with_tree, without, strict=True):
            assert a.errors.shape == (6, 24) and a.prompts == list(PROMPTS.values())
            np.testing.assert_allclose(a.errors, b.errors, rtol=1e-5)
            assert a.n_evaluations == b.n_evaluations + 3 * 8
            assert a.predicted == b.predicted and a.undecided == b.undecided


def test_a_shortlist_leaves_branches_out_of_the_tree(sd):
    tree = Hierarchical(TREE, then=RACE, race=RACE)
    clf = DiffusionClassifier(sd, PROMPTS, pruning=Shortlist(2, lambda pixels: np.array([0, 5, 0, 4, 0, 0.0]), tree))
    table = clf.errors(pictures(1)[0])
    known = (~np.isnan(table.errors)).any(axis=1)
    assert not known[[0, 2, 4, 5]].any() and known.any() and table.predicted in (NAMES[1], NAMES[3])
    assert tree.bind(NAMES).only([1, 3]).children == {6: (1,), 7: (3,)}
    assert tree.bind(NAMES).only([1, 3]).roots == (6, 7)


def test_a_class_conditional_model_takes_labels_that_stand_for_a_branch(tmp_path):
    dit = load_model(save_tiny_dit(tmp_path / "dit"))
    race = Racing(trials=16, threshold=1.0)
    tree = {"trouser": ["trouser"], "t-shirt": ["t-shirt", "pullover"]}
    table = DiffusionClassifier(dit, pruning=Hierarchical(tree, then=race, race=race)).errors(pictures(1)[0])
    assert table.errors.shape == (3, 16) and table.n_evaluations > (~np.isnan(table.errors)).sum()
    with pytest.raises(ValueError, match="label must be one of the model's 3 labels, got 'clothes'"):
        wrong = {"clothes": ["trouser", "t-shirt", "pullover"]}
        DiffusionClassifier(dit, pruning=Hierarchical(wrong, then=race, race=race))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"shoes": ["a"]}, "tree must name each of the 2 classes once, got 'b' 0 times"),
        ({"shoes": ["a", "b"], "bags": ["b"]}, "tree must name each of the 2 classes once, got 'b' 2 times"),
        ({"shoes": ["a", "b", "c"]}, "got 'c' which is no class"),
        ({"shoes": ["a", "b"], "bags": []}, "tree must have classes below every node, got none below 'bags'"),
    ],
)
def test_trees_that_do_not_fit_the_classes(tree, message):
    with pytest.raises(ValueError, match=message):
        Hierarchical(tree).bind(["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tree": {}}, "tree must map prompts of inner nodes"),
        ({"tree": ["a", "b"]}, "tree must map prompts of inner nodes"),
        ({"tree": {"x": {"y": ["a"]}, "y": ["b"]}}, "tree must have every node once, got 'y' twice"),
        ({"tree": TREE, "level_trials": 4}, "level_trials must be a whole number of at least 8, got 4"),
    ],
)
def test_trees_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hierarchical(**arguments)


def test_staged_schedules_work_below_a_tree():
    staged = Staged(trials=(8, 32), keep=(1, 1), grid="random")
    tree = Hierarchical(TREE, then=staged, race=RACE).bind(NAMES)
    known = replay(tree, errors_of([9, 9, 4, 0, 9, 9, 20, 10, 20]))
    assert (~np.isnan(known))[[2, 3]].sum(axis=1).tolist() == [8, 32]
    assert tree.survivors(known).tolist() == []
