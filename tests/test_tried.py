"""What else was tried is measured right: with and without, on the same images; weights do what they say."""

from dataclasses import replace

import numpy as np
from tiny import save_tiny_sd

from diffclf import Racing, load_model
from diffclf.mini.harness import TASKS, complete_tables, open_task
from diffclf.workbook import tried


class Lenient(Racing):
    """A race that few images are enough to calibrate."""

    def calibrate(self, tables):
        return super().calibrate(tables, error=1)


def test_races_are_calibrated_with_and_without_on_the_same_images(tmp_path, monkeypatch):
    model = load_model(save_tiny_sd(tmp_path / "sd"))
    monkeypatch.setattr(tried, "TASKS", {"mini-items": replace(TASKS["mini-items"], n_tune=6)})
    monkeypatch.setattr(tried, "Racing", lambda **options: Lenient(trials=24, **options))
    found = tried.try_all(model, tmp_path)
    assert found["images"] == 6
    for name, race in {
        "race": Racing(trials=24),
        "independent noise": Racing(trials=24, antithetic=False),
        "own variances": Racing(trials=24, prior_pairs=0),
    }.items():
        data, bank = open_task(TASKS["mini-items"], model, "tune", 6, tmp_path, antithetic=race.antithetic)
        tables = complete_tables(bank, data, race)
        expected = race.calibrate(tables, error=1)
        assert found["races"][name]["evaluations"] == expected.n_evaluations
        assert found["races"][name]["full_accuracy"] == np.mean(tables.mean(axis=2).argmin(axis=1) == data.labels)
    table = tried.tried_table(found)
    assert table.loc["every second block of noises mirrored", "result"] in ("kept", "no help")


def test_weights_help_where_only_some_trials_tell_classes_apart():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    errors = rng.normal(0, 0.3, (400, 4, 20))
    errors[:, :, :10] += 3 * rng.normal(0, 1, (400, 4, 10))  # trials that only differ
    errors[np.arange(400), labels, 10:] -= 0.3
    found = tried.weighted_accuracies(errors, labels)
    assert set(found) == {"flat", "spread", "1 / spread", "1 / spread squared"}
    assert found["1 / spread squared"] > found["flat"] + 0.2 > found["spread"] + 0.2
