"""The trials that the eight timestep designs share, and what is classified correctly from them."""

import numpy as np
import pytest

from diffclf.experiments import e03_timestep_strategies as e03
from diffclf.experiments.e03_timestep_strategies import DESIGNS, GRID, DesignErrors, SharedTrials, design_timesteps
from diffclf.stats import paired_difference
from diffclf.trials import even, uniform

FIXED = {
    "0,500,1000": [0, 500, 999],
    "0": [0],
    "500": [500],
    "1000": [999],
    "475,500,525": [475, 488, 500, 512, 525],
    "Even 5": even(5).tolist(),
    "Even 10": even(10).tolist(),
}
MOST = {"0,500,1000": 12, "0": 4, "500": 5, "1000": 4, "475,500,525": 15, "Even 5": 5, "Even 10": 10}  # R = 1
PAPER = {"Uniform": [[25, 70], [100, 80]], "500": [[1, 40], [2, 50]], "Even 5": [[20, 60], [50, 70]]}


def test_the_eight_designs_of_figure_4():
    assert list(DESIGNS) == ["Uniform", *FIXED]
    np.testing.assert_array_equal(design_timesteps("Uniform", 30), uniform(30))
    for name, timesteps in FIXED.items():
        once, many = (design_timesteps(name, n).tolist() for n in (len(timesteps), 30))
        assert sorted(once) == timesteps and many == once * (30 // len(once)), "every timestep once before any twice"
    assert design_timesteps("0,500,1000", 3, 100).tolist() == [0, 50, 99]
    for n in (5, 10):
        assert design_timesteps(f"Even {n}", n, 37).tolist() == uniform(n, 37).tolist()


@pytest.mark.parametrize("n_repeats", [1, 4])
def test_the_list_is_uniform_then_each_fixed_timestep_as_often_as_its_design_needs(n_repeats):
    trials = SharedTrials(100, n_repeats).trial_list()
    assert len(trials) == 100 + n_repeats * 39 and (trials.noises == np.arange(len(trials))).all()
    assert (trials.timesteps[:100] == uniform(100)).all()
    times, counts = np.unique(trials.timesteps[100:], return_counts=True)
    counted = dict(zip(times.tolist(), counts // n_repeats, strict=True))
    often = {500: 5, 0: 4, 999: 4, 475: 3, 488: 3, 512: 3, 525: 3}
    assert counted == {t: often.get(t, 1) for own in FIXED.values() for t in own}
    assert trials.timesteps[100:121].tolist() == list(counted := dict.fromkeys(trials.timesteps[100:].tolist()))
    assert len(counted) == 21, "the first round has every timestep once"


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("n_timesteps", [1000, 100])
def test_columns_hold_the_timesteps_of_the_design_each_column_once(name, n_timesteps):
    shared = SharedTrials(25, 4, n_timesteps)
    timesteps, longest = shared.trial_list().timesteps, shared.columns(name, shared.most(name))
    assert shared.most(name) == (25 if name == "Uniform" else 4 * MOST[name])
    for n in range(1, len(longest) + 1):
        columns = shared.columns(name, n)
        assert len(set(columns.tolist())) == len(columns) == n
        assert (columns == longest[:n]).all(), "fewer trials are a prefix"
        expected = uniform(25, n_timesteps)[:n] if name == "Uniform" else design_timesteps(name, n, n_timesteps)
        assert (timesteps[columns] == expected).all()


def test_a_grid_for_each_number_is_made_of_trials_of_uniform():
    shared = SharedTrials(100, 1)
    timesteps = shared.trial_list().timesteps
    for n in (1, 2, 4, 10):
        assert np.abs(timesteps[shared.columns(GRID, n)] - even(n)).max() <= 5
    assert sorted(shared.columns(GRID, 100)) == list(range(100)) and shared.most(GRID) == 100


def test_budgets_are_doublings_of_whole_rounds_and_all_of_them():
    shared = SharedTrials(100, 5)
    assert shared.budgets("500").tolist() == [1, 2, 4, 8, 16, 25]
    assert shared.budgets("475,500,525").tolist() == [5, 10, 20, 40, 75]
    assert shared.budgets("Uniform").tolist() == [1, 2, 4, 8, 16, 32, 64, 100]
    assert SharedTrials(16, 1).budgets("Uniform").tolist() == [1, 2, 4, 8, 16]
    rows = shared.design_rows()
    assert rows["0,500,1000"] == {"timesteps": "0, 500, 999", "noises of each": 20, "trials": 60}
    assert rows["Uniform"]["timesteps"].startswith("5, 505, ") and rows["Uniform"]["timesteps"].endswith(", ...")


@pytest.fixture
def designs():
    """40 images of which only Uniform's trials and, in the first ten, the early noises of t = 500 tell the class."""
    rng = np.random.default_rng(0)
    shared, labels, groups = SharedTrials(12, 2), rng.integers(3, size=40), np.arange(40) // 2
    errors = rng.random((40, 3, len(shared.trial_list())))
    own = shared.columns("500", 10)
    errors[:, :, own] = 0
    errors[np.arange(40), (labels + 1) % 3, own[:, None]] = -1  # t = 500 chooses the next class ...
    errors[np.arange(10), labels[:10], own[:, None]] = -2  # ... but not on the first ten images
    errors[np.arange(40), labels, :12] -= 2
    return DesignErrors(shared, errors, labels, groups)


def test_designs_are_judged_and_compared_on_their_own_columns(designs):
    shared, labels = designs.shared, designs.labels
    assert designs.right("Uniform", 1).all() and designs.right(GRID, 7).all()
    assert designs.accuracy("500", 3).value == 25
    budgets, accuracy = designs.curve("1000")
    right = designs.errors[:, :, shared.columns("1000", 8)].mean(axis=2).argmin(axis=1) == labels
    assert budgets.tolist() == [1, 2, 4, 8] and accuracy[-1].value == pytest.approx(100 * right.mean())
    found = designs.compare(("Uniform", 2), ("1000", 8), 0.9)
    assert found == 100 * paired_difference(np.ones(40), right, designs.groups, level=0.9)
    budgets, minus = designs.uniform_minus("500")
    assert budgets.tolist() == [1, 2, 4, 8, 10] and {estimate.value for estimate in minus} == {75}
    assert designs.uniform_minus("0,500,1000")[0].tolist() == [3, 6, 12], "at most as many as Uniform has"


def test_contrasts_have_as_many_trials_as_there_are(designs):
    limited = {claim: designs.limit(*pair) for claim, pair in e03.CLAIMS.items()}
    assert limited["single-timestep-plateau"] == (("Uniform", 12), ("500", 10))
    assert limited["three-timesteps-plateau"] == (("Uniform", 12), ("0,500,1000", 24))
    assert limited["middle-plateau"] == (("Uniform", 12), ("475,500,525", 12)), "equal numbers stay equal"
    assert limited["crossover"] == (("500", 4), ("Uniform", 4))
    rows = designs.earlier_rows()
    assert rows["uniform-beats-single"]["contrast"] == "Uniform − 500" and rows["uniform-beats-single"]["trials"] == 6
    assert rows["uniform-beats-single"]["points"].value == 75
    assert [row["margin"] for row in rows.values()] == [0, 0, 0, 0, 3]


def test_tables_show_bias_gains_and_the_paper_where_it_has_both_curves(designs):
    paper = {name: PAPER.get(name, [[1, 10], [2, 20]]) for name in DESIGNS}
    row = designs.against_rows(paper)["500"]
    assert (row["trials"], row["equal trials"].value, row["all trials"].value, row["paper, all"]) == (10, 75, 75, 30)
    assert np.isnan(row["paper, equal"])
    halves = designs.repeated_rows()
    assert halves.keys() == FIXED.keys() and halves["500"]["trials of a half"] == 5
    assert [halves["500"][name].value for name in ("same class", "same wrong class", "Uniform is right")] == [
        100,
        75,
        75,
    ]
    gains = designs.gains()
    assert gains["500"][:2] == (5, 10) and gains["500"][2].value == 0 and gains["Even 5"][:2] == (5, 10)
    small = DesignErrors(SharedTrials(12, 1), designs.errors, designs.labels, designs.groups)
    assert "Even 5" not in small.gains() and "Even 5" not in small.repeated_rows(), "one round has no half"


def test_where_a_design_overtakes_another_one():
    shared = SharedTrials(12, 2)
    errors = np.zeros((4, 2, len(shared.trial_list())))  # in a tie the first class wins, which is wrong
    errors[:, 1, [*shared.columns("500", 10), *range(3, 12)]] = -1
    designs = DesignErrors(shared, errors, np.ones(4, dtype=int), np.arange(4))
    assert designs.overtakes("Uniform", "500") == 4, "the first three trials of Uniform tell nothing"
    assert designs.overtakes("500", "Uniform") == 1 and designs.overtakes("1000", "500") is None


def test_the_papers_curves():
    assert e03.interpolate([[1, 10], [100, 30]], [1, 10, 100]) == pytest.approx([10, 20, 30])
    assert np.isnan(e03.interpolate([[1, 10], [100, 30]], 101))
    assert e03.paper_minus(PAPER, "500") == []
    assert e03.paper_minus(PAPER, "Even 5") == [[50, pytest.approx(5)]]
    assert e03.paper_gains({"500": PAPER["500"]}) == {"500": (1, 2, 10)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SharedTrials(10, 1).columns("Odd 5", 5), "design must be one of .*, got 'Odd 5'"),
        (lambda: design_timesteps("Odd 5", 5), "design must be one of .*, got 'Odd 5'"),
        (lambda: SharedTrials(10, 2).columns("500", 0), r"n_trials of '500' must lie in 1\.\.10, got 0"),
        (lambda: SharedTrials(10, 2).columns("500", 11), r"n_trials of '500' must lie in 1\.\.10, got 11"),
        (lambda: SharedTrials(10, 2).columns("Uniform", 11), r"n_trials of 'Uniform' must lie in 1\.\.10, got 11"),
        (lambda: SharedTrials(10, 0), "n_repeats must be at least 1, got 0"),
        (lambda: SharedTrials(1001, 1), r"must lie in 1\.\.1000, got 1001"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_evaluations_by_hand():
    assert e03.evaluations({"n_classes": 10, "n_images": 140, "n_repeats": 5}) == 10 * 140 * 5 * 39
