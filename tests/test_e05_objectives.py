"""Losses compared on the same errors: choices, contrasts, the weights of the bound, parts of the embedded sets."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from diffclf.bank import ErrorBank
from diffclf.datasets import load_dataset
from diffclf.datasets.world import HELD_OUT
from diffclf.evaluator import PLAIN
from diffclf.experiments import e05_objectives as e05
from diffclf.paths import data_dir
from diffclf.schedule import NoiseSchedule, variational_terms
from diffclf.stats import paired_difference
from diffclf.trials import TrialList, uniform

TABLES = json.loads((data_dir() / "paper" / "tables.json").read_text())
SETTINGS = {
    "dataset": "mini-items", "n_classes": 10, "class_dataset": "mini-items", "n_dit_classes": 10, "n_images": 5,
    "n_trials": 3, "n_dit_trials": 4, "more_tasks": {"mini-colour": {"prompts": 6, "images": 4}},
    "shifted": {"mini-v2": {"prompts": 10, "images": 3}},
}  # fmt: skip


def made(rights):
    """Return errors of two classes and one trial, class 0 true; rights: loss -> which images are right."""
    errors = {loss: np.stack([1 - np.array(own), own], axis=1)[:, :, None] for loss, own in rights.items()}
    n = len(next(iter(errors.values())))
    return e05.LossErrors(errors, np.zeros(n, dtype=int), np.arange(n))


def test_a_loss_is_right_where_the_mean_of_its_own_errors_says_so():
    rng = np.random.default_rng(0)
    errors, labels = {loss: rng.random((30, 4, 12)) for loss in ("l2", "l1")}, rng.integers(4, size=30)
    run = e05.LossErrors(errors, labels, np.arange(30) // 2)
    right = {
        loss: np.array([e.mean(axis=1).argmin() == c for e, c in zip(own, labels, strict=True)])
        for loss, own in errors.items()
    }
    assert (run.right("l1") == right["l1"]).all() and run.accuracy("l2").value == 100 * right["l2"].mean()
    assert run.compare("l1", "l2", 0.9) == 100 * paired_difference(right["l1"], right["l2"], run.groups, level=0.9)
    budgets, curve = run.curves()["l2"]
    assert budgets.tolist() == [1, 2, 3, 5, 10, 12] and curve[-1].value == pytest.approx(100 * right["l2"].mean())
    two = run.keep(np.arange(12) < 2)
    assert two.errors["l1"].shape == (30, 4, 2) and two.accuracy("l2").value == pytest.approx(curve[1].value)


def test_sets_of_unequal_size_weigh_the_same():
    runs = {"a": made({"l2": [1, 1], "l1": [0, 0]}), "b": made({"l2": [1, 0, 0, 0], "l1": [1, 1, 0, 0]})}
    assert e05.mean_difference(runs, "l2", "l1").value == pytest.approx((100 - 25) / 2)
    assert e05.mean_difference(runs, {"a": "l2", "b": "l1"}).value == pytest.approx(25 / 2)
    assert e05.mean_difference(runs, "l2", "l1").n == 6
    assert e05.mean_difference(runs, "l2", "l1", same_photos=True).n == 4


def test_the_choice_is_made_on_tune_images_and_scored_on_test_images():
    tune = {"a": made({"l2": [0, 0], "l1": [1, 0]}), "b": made({"l2": [1, 0], "l1": [0, 1]})}
    test = {"a": made({"l2": [1, 1, 0, 1], "l1": [0, 1, 0, 0]}), "b": made({"l2": [0, 0], "l1": [1, 1]})}
    rows = e05.choice_rows(test | {"c": test["b"]}, tune)
    assert [row["chosen"] for row in rows.values()] == ["l1", "l2", "l1"], "l2 in a tie; c has the choice of a"
    assert rows["a"]["gain on test images"].value == -50 and rows["a"]["if chosen on test images"] == 0
    assert rows["b"]["gain on test images"] == 0 and rows["b"]["if chosen on test images"] == 100
    assert rows["a"]["tune images"] == 2 and rows["c"]["tune images"] == "none: as on a"


def test_contrasts_have_the_sign_of_their_claim():
    half, none, full = [1, 0], [0, 0], [1, 1]
    zero_shot = {"a": made({"l2": half, "l1": full, "huber": full}), "b": made({"l2": half, "l1": none, "huber": none})}
    home = made({"l2": full, "l1": half, "vlb": none, "l2+vlb": half})
    shifted = made({"l2": half, "l1": half, "vlb": none, "l2+vlb": half})
    found = e05.contrasts(zero_shot, {"home": home, "x": shifted}, {"a": "l1", "b": "l2"}, 0.99)
    assert {claim: estimate.value for claim, estimate in found.items()} == {
        "l2-beats-vlb": 100, "sum-equals-l2": -50, "l2-beats-l1-for-the-dit": 50, "huber-near-l2": 50,
        "choosing-beats-l2": 25, "vlb-worse-out-of-distribution": 50,
    }  # fmt: skip
    assert {estimate.level for estimate in found.values()} == {0.99}
    assert "vlb-worse-out-of-distribution" not in e05.contrasts(zero_shot, {"home": home}, {"a": "l1", "b": "l2"}, 0.9)


def test_reading_names_the_sets_told_apart():
    certain = e05.differences(
        {"a": made({"l2": [0] * 9, "l1": [1] * 9}), "b": made({"l2": [1, 0], "l1": [0, 1]})}, ["l2", "l1"]
    )
    assert e05.reading(certain) == [f"l1 differs from l2 on 1 of 2 sets: a ({certain['a']['l1']:.1f})."]
    runs = {"chance": made({"l2": [1, 0] * 5}), "above": made({"l2": [1] * 10})}
    assert e05.at_chance(runs) == "chance" and e05.at_chance({"above": runs["above"]}) == "none"
    assert e05.reading({"b": certain["b"]}) == ["l1 differs from l2 on 0 of 1 sets."]


def test_the_papers_differences_are_taken_within_a_table():
    dit = e05.paper_dit(TABLES["table5_objective"], TABLES["table9_loss_supervised"], 256)
    assert dit["ImageNet"] == {"l1": -2.6, "vlb": -5.9, "l2+vlb": 0.0}
    assert dit["ObjectNet"] == {"l1": -7.4, "vlb": -9.2, "l2+vlb": -0.1}
    table8 = TABLES["table8_loss_zero_shot"]
    assert e05.paper_zero_shot(table8)["Pets"] == {"l1": 1.0, "huber": 0.3}
    assert sum(e05.paper_choice(table8).values()) == pytest.approx(9.1) and e05.paper_choice(table8)["ObjectNet"] == 0
    run = {"x": made({loss: [1] for loss in e05.DIT_LOSSES})}
    rows = e05.dit_rows(run, TABLES["table5_objective"], TABLES["table9_loss_supervised"])
    assert len(rows) == 9 and rows["paper, ImageNet-A, 512"] == {"l2": 30.2, "vlb": 24.9, "l2+vlb": 30.2, "l1": 13.2}
    rows = e05.zero_shot_rows({"x": made({loss: [1] for loss in e05.ZERO_SHOT_LOSSES})}, table8)
    assert len(rows) == 9 and rows["paper, CIFAR10"] == {"l2": 84.4, "l1": 88.4, "huber": 84.6}
    assert rows["this run, x"]["l1"].value == 100


@pytest.mark.parametrize("t", [0, 1, 25, 999])
def test_the_weight_is_what_one_more_unit_of_squared_error_adds_to_the_bound(t):
    schedule, x = NoiseSchedule.linear(), torch.randn(3, 1, 4, 4, 4, dtype=torch.float64)
    x0, eps, wrong = x
    step = torch.tensor([t])
    x_t = schedule.add_noise(x0, eps, step)
    for limit, weight in zip((-1.0, 1.0), e05.vlb_weights(schedule, [t])[0], strict=True):
        variance = torch.full_like(x0, limit)
        right, off = (variational_terms(x0, x_t, e, variance, step, schedule) for e in (eps, eps + wrong))
        assert float(off - right) == pytest.approx(weight * float(wrong.square().mean()), rel=1e-6)


def test_huber_is_half_of_l2_up_to_1_and_rewards_one_large_error():
    small, large = torch.rand(50), torch.tensor([0.1, 0.1, 0.1, 2.0])
    zeros = torch.zeros
    assert float(PLAIN["huber"](small, zeros(50))) == pytest.approx(float(small.square().mean()) / 2)
    assert float(PLAIN["huber"](large, zeros(4))) == pytest.approx((3 * 0.005 + 1.5) / 4)


def test_parts_of_the_trials_add_up_and_are_ordered_by_timestep():
    errors = np.zeros((4, 2, 3))
    errors[:, 1] = np.array([[1, 1, 2], [3, 1, 6], [1, 1, 2], [3, -1, 6]])  # variances 1, 0.75, 4
    run = e05.LossErrors({"l2": errors}, np.zeros(4, dtype=int), np.arange(4))
    t, accuracy, parts = e05.timestep_parts(run, ["l2"], [500, 900, 100])
    assert t.tolist() == [100, 500, 900] and [e.value for e in accuracy["l2"]] == [100, 100, 75]
    assert parts["l2"] == pytest.approx(np.array([4, 1, 0.75]) / 5.75 * 100)


def test_parts_of_the_embedded_sets():
    unseen, seen = (e05.load_task(f"mini-{name}-pairs", "test", 12) for name in ("unseen", "seen"))
    pairs = {" ".join(pair) for pair in HELD_OUT}
    assert {unseen.classnames[label] for label in unseen.labels} <= pairs and len(unseen) == 12
    assert not {seen.classnames[label] for label in seen.labels} & pairs and len(seen.classnames) == 60
    whole = load_dataset("mini-coloured-items", "test")
    place = np.flatnonzero(whole.groups == unseen.groups[3])[0]
    assert (np.array(unseen.images[3]) == np.array(whole.images[place])).all() and whole.labels[place] == unseen.labels[
        3
    ]
    with pytest.raises(ValueError, match=r"n_images of mini-unseen-pairs must lie in 1\.\.\d+, got 2000"):
        e05.load_task("mini-unseen-pairs", "test", 2000)


def test_mini_a_has_what_the_filter_gets_wrong(monkeypatch):
    pool, hard = load_dataset("mini-items", "pool"), [3, 8, 4000]

    class Filter:
        def probabilities(self, data):
            found = np.eye(10)[data.labels] * 0.9 + 0.01
            found[hard] = found[hard][:, ::-1]
            return found

    monkeypatch.setattr(e05, "load_supervised", lambda name: {"f": Filter()}[name])
    data = e05.load_task("mini-a", "test", 2, "f")
    assert data.name == "mini-a" and data.groups.tolist() == pool.groups[hard[:2]].tolist()
    with pytest.raises(ValueError, match=r"n_images of mini-a must lie in 1\.\.3, got 4"):
        e05.load_task("mini-a", "test", 4, "f")


def test_evaluations_are_what_an_empty_bank_computes(tiny_sd, tmp_path):
    by_hand = 3 * (10 * (5 + 2) + 6 * (4 + 2)) + 4 * (10 * (5 + 2) + 10 * 3)
    assert e05.evaluations(SETTINGS) == by_hand
    make_bank = partial(ErrorBank, tmp_path)
    zero_shot, tune, spent = e05.run_tasks(make_bank, tiny_sd, e05.zero_shot_tasks(SETTINGS), ("l2", "l1"), 3)
    assert [run.errors["l1"].shape for run in (*zero_shot.values(), *tune.values())] == [
        (5, 10, 3), (4, 6, 3), (2, 10, 3), (2, 6, 3),
    ]  # fmt: skip
    assert spent == 3 * (10 * (5 + 2) + 6 * (4 + 2))
    assert e05.run_tasks(make_bank, tiny_sd, e05.zero_shot_tasks(SETTINGS), ("l2", "l1"), 3)[2] == 0
    data = load_dataset("mini-items", "tune", 2)
    alone = ErrorBank(tmp_path / "alone", tiny_sd, data.prompts_for(tiny_sd), TrialList(uniform(3)), losses=("l1",))
    np.testing.assert_allclose(tune["mini-items"].errors["l1"], alone.errors(data.images, "l1"), rtol=1e-4)
