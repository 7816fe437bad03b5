"""The simulated fleet: exact where chance is switched off, and nothing lost where nodes are."""

import numpy as np
import pytest

from diffclf.bench.fleet import SURVIVORS, Fleet, Job, imagenet_jobs, simulate
from diffclf.pruning import Racing

CALM = {"speed_spread": 0.0, "stragglers": 0.0, "hours_between_losses": 1e12, "loading_s": 100.0, "reading_s": 0.1}


def test_without_chance_the_time_is_the_work_over_the_rate():
    found = simulate(Job(60, 500.0, 40, 0.0), Fleet(4, rate=10.0, image_bytes=60.0, **CALM))
    seconds = 100 + 15 * 50
    assert found["hours"] == pytest.approx(seconds / 3600) and found["GPU hours"] == pytest.approx(4 * seconds / 3600)
    assert found["GPUs in use"] == pytest.approx(750 / 850) and found["computed twice"] == found["blocks lost"] == 0
    assert found["bank, GB"] == pytest.approx(60 * 40 / 1e9) and found["hours to read it"] == pytest.approx(6 / 3600)
    assert found["MB/s"] == pytest.approx(60 * 100 / seconds / 1e6)


def test_an_incomplete_last_round_leaves_gpus_idle():
    found = simulate(Job(9, 500.0, 40, 0.0), Fleet(4, rate=10.0, block=2, **CALM))
    assert found["hours"] == pytest.approx((100 + 100 + 50) / 3600), "five blocks, the last of one image"


def test_a_straggler_gets_less_work():
    fleet = Fleet(1000, rate=10.0, **CALM | {"stragglers": 0.5, "loading_s": 0.0})
    found = simulate(Job(200_000, 10.0, 1, 0.0), fleet)
    mean_speed = 10 * (1 + 0.33) / 2
    assert found["hours"] * 3600 == pytest.approx(200_000 * 10 / mean_speed / 1000, rel=0.05)


def test_lost_nodes_cost_time_and_no_image():
    job, calm = Job(2000, 1000.0, 1, 0.3), Fleet(16, rate=10.0, **CALM)
    lossy = Fleet(16, rate=10.0, **CALM | {"hours_between_losses": 1.0, "loading_s": 100.0})
    without, found = simulate(job, calm), simulate(job, lossy)
    assert found["blocks lost"] >= 8, "a node takes its eight GPUs along"
    assert found["hours"] > without["hours"]
    busy = [row["GPUs in use"] * row["GPU hours"] for row in (found, without)]
    assert busy[0] == pytest.approx(busy[1]), "all images are computed, each once"
    assert 0 < found["computed twice"] < found["blocks lost"] / 2000 * 2


def test_the_jobs_are_the_papers_stages_and_the_measured_race():
    jobs = imagenet_jobs()
    assert jobs["paper's stages"].evaluations == 124_500
    assert list(SURVIVORS) == Racing().looks()
    assert imagenet_jobs(n_classes=360)["race"].evaluations == pytest.approx(3759.6, rel=1e-3)
    assert jobs["race"].bytes_each == 16 + 1000 * 128 * 4
    costs = [simulate(jobs["race"], Fleet(1, rate, **CALM), seed)["GPU hours"] for rate in (50, 100) for seed in (0, 1)]
    np.testing.assert_allclose(costs, [2 * costs[2], 2 * costs[2], costs[2], costs[2]], rtol=0.01)
