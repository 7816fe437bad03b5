"""Racing: sweeps compute each entry once, the rule of choice, calibration, label trees, and the fitted growth."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffclf import Racing, Staged
from diffclf.bank import ErrorBank
from diffclf.datasets import load_dataset
from diffclf.datasets.world import ITEMS
from diffclf.experiments import e14_racing as e14
from diffclf.experiments.sweep import Outcome, Sweep, run_once
from diffclf.pruning import Hierarchical, Shortlist
from diffclf.stats import clopper_pearson


def outcome(right, cost, chosen=None):
    right = np.asarray(right, dtype=bool)
    return Outcome(np.arange(len(right)) if chosen is None else np.asarray(chosen), right, np.full(len(right), cost))


@pytest.fixture
def open_bank(tmp_path):
    return lambda model, prompts, trials, **options: ErrorBank(tmp_path, model, prompts, trials, **options)


def test_a_sweep_finds_what_a_search_finds_and_computes_each_entry_once(tiny_sd, open_bank, tmp_path):
    data = load_dataset("mini-items", "tune", 3)
    sweep = e14.open_sweep(open_bank, tiny_sd, data, 16)
    strategies = [Racing(16, threshold=1.5), Staged((4, 16), (3, 1), "random"), Staged((16,), (1,), "random")]
    spent = [0]
    for strategy in strategies:
        found = sweep.run(strategy)
        spent.append(sweep.bank.n_evaluations)
        apart = ErrorBank(tmp_path / "apart", tiny_sd, data.prompts_for(tiny_sd), sweep.bank.trials, losses=("l2",))
        alone = run_once(apart, data, strategy)
        assert (found.right == alone.right).all() and (found.spent == alone.spent).all()
    assert spent[1] <= found.spent.sum() == spent[-1] == 3 * 10 * 16, "all strategies cost what all classes cost"
    again = Sweep(sweep.bank, data)
    again.run(strategies[0])
    assert sweep.bank.n_evaluations == spent[-1], "a second sweep reads the bank"


def test_nodes_and_shortlists_are_run_and_counted(tiny_sd, open_bank):
    data = load_dataset("mini-coloured-items", "tune", 2)
    sweep = e14.open_sweep(open_bank, tiny_sd, data, 16)
    assert sweep.tables.shape == (2, 60 + 10, 16)
    race = Racing(16, threshold=2.0)
    tree = sweep.run(Hierarchical(data.tree, then=race, race=race))
    entries = (~np.isnan(sweep.tables)).sum(axis=(1, 2))
    assert (tree.spent == entries).all() and (tree.chosen < 60).all(), "nodes cost evaluations and are never chosen"
    scores = np.linspace(0, 1, 60)
    short = sweep.run(Shortlist(4, lambda pixels: scores, Staged((2,), (1,), "random")))
    assert short.spent.tolist() == [8, 8] and (short.chosen >= 56).all()


def test_staged_candidates_come_by_cost_each_once_within_the_limit():
    made = e14.fixed_schedules(10, 128, 120)
    costs = [schedule.evaluations(10) for schedule in made]
    assert costs == sorted(costs) and costs[-1] <= 120 and len(set(made)) == len(made)
    assert Staged((4, 8), (2, 1), "random") in made and all(max(s.keep) < 10 and len(s.trials) > 1 for s in made)


def test_the_cheapest_candidate_that_loses_at_most_a_point_is_chosen():
    reference = outcome([1] * 100, 500), outcome([1] * 100, 500)
    right = {"bad": 98, "lucky": 99, "good": 100, "dear": 100}
    first = {
        name: outcome([1] * n + [0] * (100 - n), cost)
        for (name, n), cost in zip(right.items(), (1, 2, 3, 4), strict=True)
    }
    again = {name: [1] * 50 + [0] * 50 if name == "lucky" else [1] * 99 + [0] for name in right}
    second = SimpleNamespace(run=lambda name: outcome(again[name], first[name].cost))
    assert e14.choose(first, second, reference) == "good", "bad fails the first comparison, lucky the second"
    assert e14.strongest(first, second, most=2.5) == "bad", "good and dear cost too much; bad beats lucky on new images"
    none = {"bad": first["bad"]}
    assert e14.choose(none, second, reference) == "bad", "where none passes, the most accurate"


def test_the_front_has_no_candidate_that_a_cheaper_one_equals():
    found = {"a": outcome([1, 0, 0], 1), "b": outcome([1, 0, 0], 2), "c": outcome([1, 1, 0], 3)}
    found |= {"d": outcome([1, 0, 0], 4), "e": outcome([1, 1, 1], 3)}
    assert e14._front(found) == ["a", "e"], "e costs what c costs and is better"


def test_calibration_stops_at_the_first_threshold_that_drops_too_many():
    def run(race):
        n_dropped = 0 if race.threshold >= 2.4 else 4 if race.threshold >= 1.8 else 5  # the bound of 5 is 1.05%
        return outcome(np.ones(1000), 1, np.append(np.ones(n_dropped), np.zeros(1000 - n_dropped)))

    reference = outcome(np.ones(1000), 1, np.zeros(1000))
    race, dropped, n = e14.calibrated(Racing(), [SimpleNamespace(run=run)], [reference])
    assert (race.threshold, dropped, n) == (1.8, 4, 1000)
    few = outcome(np.ones(10), 1, np.zeros(10))
    kept = e14.calibrated(Racing(threshold=2.2), [SimpleNamespace(run=lambda race: few)], [few])
    assert kept[0].threshold == 2.2, "ten images can bound nothing"


def test_growth_of_a_power_law_is_its_exponent():
    def spends(power, n_images=30):
        rng = np.random.default_rng(1)
        return {
            n: Outcome(np.zeros(n_images), np.zeros(n_images), n**power * rng.uniform(0.9, 1.1, n_images))
            for n in (10, 60, 360)
        }

    found = {"race": spends(1.0), "tree": {n: o for n, o in spends(0.5).items() if n > 10}}
    fits = e14.growth(found)
    assert fits["race"].value == pytest.approx(1, abs=0.03) and fits["tree"].value == pytest.approx(0.5, abs=0.03)
    assert fits["race"].low < fits["race"].value < fits["race"].high and fits["race"].n == 60
    apart = e14.growth(found, minus="race")
    assert list(apart) == ["tree"] and apart["tree"].value == pytest.approx(-0.5, abs=1e-9)
    assert apart["tree"].high - apart["tree"].low < 1e-9, "the same images for both: their spread cancels"
    assert e14.growth({"race": {10: found["race"][10]}}) == {}


def test_cost_as_a_signal():
    own = SimpleNamespace(
        race="r", outcomes={"r": Outcome(np.zeros(4), np.array([1, 1, 0, 0], bool), np.array([1, 5, 5, 9]))}
    )
    assert e14.cost_as_signal(own) == (1 + 1 + 0.5 + 1) / 4
    own.outcomes["r"] = outcome([1, 1], 3)
    assert np.isnan(e14.cost_as_signal(own))


def test_a_study_scores_what_was_chosen_and_its_rows_agree(tiny_sd, open_bank):
    sizes = {"first": 3, "second": 2, "test": 4, "full": 2, "most": 60, "k": 3}
    settings = {"race_trials": 16, "scorer_split": "pool", "n_images": 9, "tasks": {"mini-items": sizes}}
    settings["growth"] = {"mini-items": {"classes": 10, "images": 2}}
    own = e14.study(open_bank, tiny_sd, "mini-items", settings)
    assert list(own.tried) == ["all classes", "staged", "race", "shortlist + race"] and own.same_winner[1] == 2
    assert own.test.run(own.race).cost == own.outcomes[own.race].cost and own.calibration[1] == 5
    rows = own.rows()
    assert rows["calibrated race"]["evaluations"] == own.outcomes[own.race].cost
    assert (
        rows["staged"]["candidate"] == e14.label(own.chosen["staged"]) and rows["staged"]["of"] == own.tried["staged"]
    )
    studies = {"mini-items": own}
    grown = e14.grow(open_bank, tiny_sd, studies, settings)
    assert set(grown) == {"staged", "race"} and list(grown["race"]) == [10]
    found = e14.contrasts(studies, grown, 0.99)
    assert set(found) == {"race-keeps-accuracy", "race-beats-staged", "winners-are-kept"}
    assert found["race-beats-staged"].level == 0.99 and found["race-keeps-accuracy"].level == pytest.approx(0.9)
    gap = 100 * (own.outcomes[own.race].right.mean() - own.outcomes[own.opponent].right.mean())
    assert e14.equal_cost_rows(studies)["mini-items"]["race minus staged"].value == pytest.approx(gap)
    assert e14.control_rows(studies)["mini-items"]["reference as all classes"].endswith("of 2")
    spent = own.outcomes[own.race].spent
    assert e14.middling_race(own)[-1].n_evaluations == sorted(spent)[len(spent) // 2]
    (rings,) = e14.marked(studies).values()
    assert list(e14.marked(studies)) == list(e14.panels(studies)) and [f for f, *_ in rings["chosen"]] == list(
        own.tried
    )
    assert rings["equal cost"][1] == ("race", spent.mean(), pytest.approx(100 * own.outcomes[own.race].right.mean()))
    said = e14.reading(studies, grown)
    assert f"costs {spent.mean() / own.outcomes[own.opponent].cost:.2f} times as many" in said[3]
    assert len(said) == 5, "one number of classes has no growth"
    more = {
        "race": dict.fromkeys((10, 60, 360), grown["race"][10]),
        "tree": dict.fromkeys((60, 360), grown["race"][10]),
    }
    assert [line.partition(":")[2][:7] for line in e14.reading(studies, more)[5:]] == [" 6 time", " 6 time"]
    assert f"{160 / spent.mean():.1f} times fewer" in said[0] and f"takes {100 * 80 / spent.mean():.0f}%" in said[1]


def test_contrasts_are_paired_on_test_images():
    n, race, staged = 200, Racing(threshold=2.0), Staged((4, 8), (2, 1), "random")
    truth, wrong = np.zeros(n, dtype=int), np.arange(n)
    found = {race: np.where(wrong < 10, 1, 0), staged: np.where(wrong < 30, 2, 0)}  # images 0..9 wrong, 0..29 wrong
    outcomes = {s: Outcome(chosen, chosen == truth, np.full(n, 7)) for s, chosen in found.items()}
    reference = Outcome(truth, truth == truth, np.full(n, 70))
    fields = dict.fromkeys(e14.Study.__dataclass_fields__)
    fields |= {"groups": wrong, "reference": reference, "race": race, "opponent": staged, "outcomes": outcomes}
    own = e14.Study(**fields | {"calibration": (3, 50), "same_winner": (8, 9)})
    assert own.difference(race, staged, 0.9).value == pytest.approx(10) and own.difference(race).value == -5
    assert own.difference(race, staged).low > 0 and own.not_worse(race).value == -5
    assert own.dropped(0.9) == 100 * clopper_pearson(10, n, 0.9)
    (row,) = e14.control_rows({"a": own}).values()
    assert [*row.values()][1:3] == ["3 of 50", "10 of 200"] and row["reference as all classes"] == "8 of 9"
    (row,) = e14.equal_cost_rows({"a": own}).values()
    assert (row["its accuracy"].value, row["accuracy"].value) == (85, 95)
    found = e14.contrasts({"a": own, "b": own}, {"race": {10: reference}}, 0.99)
    assert list(found)[3:] == ["race-keeps-accuracy-60", "race-beats-staged-60", "winners-are-kept-60"]


def test_halving():
    ten = SimpleNamespace(classnames=ITEMS)
    assert e14.halving(ten, 128) == Staged((16, 32, 64), (5, 2, 1), "random"), "no trials for a class that is alone"
    assert e14.halving(SimpleNamespace(classnames=ITEMS[:8]), 128) == Staged((32, 64, 128), (4, 2, 1), "random")


def test_evaluations_by_hand():
    task = {"classes": 10, "first": 3, "second": 2, "test": 5, "full": 2}
    settings = {"race_trials": 128, "n_images": 9, "tasks": {"a": task}, "growth": {"b": {"classes": 60, "images": 3}}}
    assert e14.evaluations(settings) == 10 * (160 + 384) + 2 * 1280 + 3 * (600 + 768)
