"""The benchmark: its plain loop is the evaluator's equal, and what it compares is equal work."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import save_tiny_sd

from diffclf import DiffusionClassifier, Exhaustive, Racing, Staged, load_model
from diffclf.bench import _study_lines, measure_overhead, measure_task, measure_throughput
from diffclf.cli import main
from diffclf.datasets import load_dataset
from diffclf.images import load_images, to_pixels
from diffclf.mini.harness import TASKS
from diffclf.plainloop import plain_staged
from diffclf.trials import Trials, image_key


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_tiny_sd(tmp_path_factory.mktemp("bench") / "sd")


@pytest.mark.parametrize("grid", ["official", "nested"])
@pytest.mark.parametrize("schedule", [((2, 5, 12), (3, 2, 1)), ((8,), (1,))])
def test_the_plain_loop_finds_what_the_classifier_finds(path, grid, schedule):
    pruning = Staged(*schedule, grid)
    data = load_dataset("mini-items", n_images=3)
    model = load_model(path)
    clf = DiffusionClassifier(model, data.prompts, pruning=pruning, batch_size=7)
    cond = model.encode_prompts(list(data.prompts.values()))
    for image, table in zip(load_images(data.images), clf.error_tables(data.images), strict=True):
        pixels = to_pixels(image, 32)
        trials = Trials(pruning.timesteps(), 0, image_key(pixels), (4, 8, 8))
        x0 = model.encode_images(pixels[None])
        winner, errors = plain_staged(model.network, model.alphas_cumprod, x0, cond, trials, pruning, batch_size=5)
        np.testing.assert_array_equal(np.isnan(errors), np.isnan(table.errors))
        np.testing.assert_allclose(errors, table.errors, rtol=1e-5)
        assert clf.classes_[winner] == table.predicted


def test_the_plain_loop_runs_full_batches(path):
    model, sizes = load_model(path), []

    def unet(x_t, t, encoder_hidden_states):
        sizes.append(len(x_t))
        return model.network(x_t, t, encoder_hidden_states=encoder_hidden_states)

    trials = Trials(Staged((4, 16), (2, 1)).timesteps(), 0, 1, (4, 8, 8))
    cond = model.encode_prompts([f"a bag {i}" for i in range(10)])
    plain_staged(unet, model.alphas_cumprod, torch.zeros(1, 4, 8, 8), cond, trials, Staged((4, 16), (2, 1)))
    assert sizes == [32, 8, 24]


def test_overhead_compares_equal_work(path):
    result = measure_overhead(load_model(path), n_pairs=3, batch_size=8, n_batches=2)
    assert result["evaluations_per_run"] == 16 and result["pairs"] == 3
    assert result["overhead"]["least"] <= result["overhead"]["median"] <= result["overhead"]["largest"]


def test_throughput_and_tasks_report_what_they_ran(path):
    speed = measure_throughput(str(path), "cpu", n_rounds=1, compile=False, n=40)
    assert set(speed["evaluations_per_second"]) == {"plain loop", "evaluator"} and set(speed["over_plain"]) == {
        "evaluator"
    }
    assert speed["gigaflops_of_an_evaluation"] > 0 and all(0 < value < 1 for value in speed["utilisation"].values())
    model, data = load_model(path), load_dataset("mini-items", n_images=2)
    schedule = Staged((2, 8), (5, 1))
    task = measure_task(
        model, load_model(path), data, schedule, {"eight": Racing(trials=8), "four": Exhaustive(4)}, n_rounds=1
    )
    assert task["evaluations_per_image"] == {"plain loop": 50, "eight": 80, "four": 40} and task["images"] == 2
    assert task["times_fewer_evaluations"] == {"eight": 50 / 80, "four": 50 / 40}
    assert set(task["times_fewer_seconds"]) == {"eight", "four"} and set(task["seconds_per_image"]) == set(
        task["evaluations_per_image"]
    )


def test_the_schedules_are_the_papers():
    assert TASKS["mini-items"].schedule.evaluations(10) == 2750
    coloured = TASKS["mini-coloured-items"].schedule
    assert coloured.evaluations(60) == 4300 and replace(coloured, grid="official").evaluations(60) == 4750


def test_the_command_prints_lines_or_json(path, capsys):
    assert main(["bench", "--model", str(path), "--only-overhead", "--pairs", "1", "--batch-size", "4"]) == 0
    assert "evaluator over bare forward passes" in capsys.readouterr().out
    main(["bench", "--model", str(path), "--only-overhead", "--pairs", "1", "--batch-size", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["overhead"]["batch_size"] == 4


def test_a_full_study_is_of_a_built_in_model_and_refused_before_anything_is_timed(path, capsys):
    for arguments in (["--model", str(path)], ["--only-overhead"]):
        assert main(["bench", "--full", *arguments]) == 2
        assert "full is for a built-in model and all measurements, got" in capsys.readouterr().err


def test_the_study_is_printed_as_it_is_stored(capsys):
    def row(evaluations, accuracy, difference, low):
        parts = {"accuracy": accuracy, "evaluations": evaluations, "difference": difference}
        return {key: {"value": value, "low": low, "high": 1} for key, value in parts.items()}

    study = {"images": 9, "race": "Racing()", "strategies": {}}
    study["strategies"] = {"paper's schedule": row(100, 0.9, 0, 0), "race": row(25, 0.8, -0.1, -0.15)}
    *_, schedule, race = _study_lines(study)
    assert schedule.split() == "paper's schedule 100 evaluations, 90.0% right".split()
    assert "4.0 times fewer, -10.0 points (one-sided 95%: at least -15.0)" in race
