"""The benchmark: its plain loop finds the evaluator's errors, and what it compares is equal work."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffclf import DiffusionClassifier, Exhaustive, Racing, Staged
from diffclf.bench.clock import compare
from diffclf.bench.plain_loop import plain_loop
from diffclf.bench.throughput import measure_overhead, measure_throughput, time_races
from diffclf.commands import bench
from diffclf.commands.main import main
from diffclf.datasets import load_dataset
from diffclf.images import load_images, to_pixels
from diffclf.trials import Trials, image_key


def test_compare_gives_ratios_to_the_first_act(monkeypatch):
    now = [0.0]

    def lasts(*seconds):
        left = iter([0, *seconds])  # the first run does not count
        return lambda: now.__setitem__(0, now[0] + next(left))

    monkeypatch.setattr("diffclf.bench.clock.timer", lambda: now[0])
    found = compare({"slow": lasts(8, 12, 4), "fast": lasts(4, 2, 4)}, [4, 2], n_rounds=3)
    assert found["slow"] == {"seconds": 2, "speedup": 1, "least": 1, "largest": 1}
    assert found["fast"] == {"seconds": 2, "speedup": 1, "least": 0.5, "largest": 3}


@pytest.mark.parametrize("grid", ["official", "nested", "random"])
@pytest.mark.parametrize("stages", [((2, 5, 12), (3, 2, 1)), ((8,), (1,))])
def test_the_plain_loop_finds_what_the_classifier_finds(tiny_sd, grid, stages):
    staged = Staged(*stages, grid)
    data = load_dataset("mini-items", n_images=3)
    clf = DiffusionClassifier(tiny_sd, data.prompts, pruning=staged, batch_size=7)
    cond = tiny_sd.encode_prompts(list(data.prompts.values()))
    for image, table in zip(load_images(data.images), clf.error_tables(data.images), strict=True):
        pixels = to_pixels(image, 32)
        trials = Trials(staged.trial_list(), 0, image_key(pixels), (4, 8, 8))
        winner, errors = plain_loop(tiny_sd, tiny_sd.encode_images(pixels[None]), cond, trials, staged, batch_size=5)
        np.testing.assert_array_equal(np.isnan(errors), np.isnan(table.errors))
        np.testing.assert_allclose(errors, table.errors, rtol=1e-5)
        assert clf.classes_[winner] == table.predicted


def test_the_plain_loop_runs_full_batches(tiny_sd):
    sizes = []

    def denoise(x_t, t, cond):
        sizes.append(len(x_t))
        return tiny_sd.denoise(x_t, t, cond)

    staged = Staged((4, 16), (2, 1))
    cond = tiny_sd.encode_prompts([f"a bag {i}" for i in range(10)])
    model = SimpleNamespace(schedule=tiny_sd.schedule, denoise=denoise)
    plain_loop(model, torch.zeros(1, 4, 8, 8), cond, Trials(staged.trial_list(), 0, 1, (4, 8, 8)), staged)
    assert sizes == [32, 8, 24]


@pytest.mark.parametrize("name", ["tiny_sd", "tiny_dit"])
def test_overhead_and_throughput_report_what_they_ran(request, name):
    model = request.getfixturevalue(name)
    overhead = measure_overhead(model, n_pairs=1, batch_size=8)
    assert list(overhead) == ["evaluator", "bare forward passes"]
    assert all(row["batch_size"] == 8 and row["seconds"] > 0 for row in overhead.values())
    speed = measure_throughput(model, {"evaluator": model}, n_rounds=1, n=40)
    assert list(speed) == ["plain loop", "evaluator"]
    for row in speed.values():
        assert row["per_second"] == pytest.approx(1 / row["seconds"]) and 0 < row["utilisation"] < 1


def test_races_report_what_they_ran(tiny_sd):
    data, strategies = load_dataset("mini-items", n_images=2), {"eight": Racing(trials=8), "four": Exhaustive(4)}
    found = time_races(tiny_sd, tiny_sd, data, Staged((2, 8), (5, 1)), strategies, n_rounds=1)
    assert {name: row["evaluations"] for name, row in found.items()} == {"plain loop": 50, "eight": 80, "four": 40}
    assert found["plain loop"]["speedup"] == 1


def test_the_command_prints_tables_or_json(tiny_sd_folder, capsys):
    command = ["bench", "--model", str(tiny_sd_folder), "--only-overhead", "--pairs", "1", "--batch-size", "4"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("overhead\n") and "bare forward passes" in out and "CPU threads" in out
    main([*command, "--json"])
    assert json.loads(capsys.readouterr().out)["overhead"]["evaluator"]["batch_size"] == 4


def test_the_command_times_all_data_sets(capsys, monkeypatch):
    def timed(fast, plain, data, staged, races, n_rounds):
        asked = {"images": len(data), "rounds": n_rounds, "official": float(staged.evaluations(len(data.classnames)))}
        return {name: asked for name in ["plain loop", *races]}

    monkeypatch.setattr(bench, "time_races", timed)
    monkeypatch.setattr(bench, "measure_throughput", lambda plain, models, n_rounds: {name: {} for name in models})
    monkeypatch.setattr(bench, "measure_overhead", lambda *_: {"evaluator": {}})
    assert main(["bench", "--no-compile", "--images", "3", "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mini-items"]["race"] == {"images": 3, "rounds": 2, "official": 2750}
    assert found["mini-coloured-items"]["label tree + race"]["official"] == 4750


def test_workers_are_measured_on_banks_that_they_fill(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("diffclf.bench.workers.IMAGES", 2)
    assert main(["bench", "--workers", "1", "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["workers"]["1 workers"]
    assert found["seconds"] > 0 and found["speedup"] == found["least"] == found["largest"] == 1
