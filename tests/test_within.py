"""Timesteps in a part of the range: where they are, what is kept, and how the part is chosen."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffclf import DiffusionClassifier, Exhaustive, Racing
from diffclf.commands.main import main
from diffclf.pruning import Staged, Within, best_range
from diffclf.trials import uniform


def test_timesteps_lie_in_the_range_and_noises_and_order_are_kept():
    for then in (Exhaustive(10, repeats=2), Staged((5, 10), (2, 1)), Racing(trials=16)):
        own, whole = Within(0.7, 0.9, then).trial_list(), then.trial_list()
        assert (own.timesteps >= 700).all() and (own.timesteps < 900).all()
        np.testing.assert_array_equal(own.noises, whole.noises)
        order = np.argsort(whole.timesteps, kind="stable")
        assert (np.diff(own.timesteps[order]) >= 0).all()
    assert Within(0.7, 0.9, Exhaustive(4)).trial_list().timesteps.tolist() == [725, 825, 775, 875]
    assert Within(0.0, 1.0, Exhaustive(10)).trial_list().timesteps.tolist() == uniform(10).tolist()
    assert Within(0.5, 1.0, Exhaustive(40)).trial_list(40).timesteps.max() == 39


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.9, 0.7), (float("nan"), 1)])
def test_ranges_that_are_none_are_refused(low, high):
    with pytest.raises(ValueError, match="timesteps must be shares with 0 <= low < high <= 1, got"):
        Within(low, high, Exhaustive(3))


def test_a_race_in_a_range_takes_no_threshold_of_the_whole_range():
    stored = {"trials": 128, "repeats": 1, "seed": 0, "prior_pairs": 8, "antithetic": True, "threshold": 2.2}
    model = SimpleNamespace(schedule=range(1000), calibration=stored)
    assert Racing().prepare(model, ["a", "b"]).threshold == 2.2
    assert Within(0.2, 0.8, Racing()).prepare(model, ["a", "b"]).then.threshold is None


def test_the_classifier_computes_the_errors_at_those_timesteps(gaussian):
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    whole = DiffusionClassifier(gaussian, None, pruning=Exhaustive(8))
    part = DiffusionClassifier(gaussian, None, pruning=Within(0.25, 0.75, Exhaustive(8)))
    table = part.errors(image)
    assert ((table.timesteps >= 250) & (table.timesteps < 750)).all() and table.n_evaluations == 16
    assert not np.array_equal(table.errors, whole.errors(image).errors)
    race = DiffusionClassifier(gaussian, None, pruning=Within(0.25, 0.75, Racing(trials=16)))
    assert list(race.race(image))[-1].n_trials <= 16


def test_the_range_with_the_information_is_found():
    rng, timesteps = np.random.default_rng(0), uniform(40)
    labels = np.arange(200) % 4
    errors = rng.normal(size=(200, 4, 40))
    informative = (timesteps >= 600) & (timesteps < 900)
    errors[np.arange(200)[:, None], labels[:, None], np.flatnonzero(informative)] -= 0.5
    low, high = best_range(errors, labels, timesteps)
    assert 0.5 <= low <= 0.7 and 0.8 <= high <= 1.0
    errors[np.arange(200), labels] -= 10.0
    assert best_range(errors, labels, timesteps) == (0.0, 1.0)


def test_on_the_command_line(capsys, tmp_path):
    assert main(["classify", str(tmp_path / "x.png"), "--labels", "a,b", "--timesteps", "0.9", "0.2"]) == 2
    assert "timesteps must be shares with 0 <= low < high <= 1, got 0.9 and 0.2" in capsys.readouterr().err
