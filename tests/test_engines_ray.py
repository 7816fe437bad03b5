"""Ray workers on a cluster of two nodes on this machine; slow, and skipped where ray is not installed."""

import os
from pathlib import Path

import pytest
from bank_killer import make_model
from engine_jobs import Exact
from test_cli import read_results, run
from test_engines import NAMED, OPTIONS, PROMPTS, STRATEGY, check

from diffclf.bank import ErrorBank
from diffclf.engines import fill, make_workers

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    own = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", own)  # the workers import engine_jobs
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    started = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    started.node = node
    started.second = started.add_node(**node)
    yield started
    ray.shutdown()
    started.shutdown()


def test_a_node_goes_and_another_joins(cluster, tmp_path):
    bank = ErrorBank(tmp_path / "bank", make_model(), PROMPTS, STRATEGY.trial_list(), **OPTIONS)
    job = Exact({"device": "cpu"}, bank.path, PROMPTS, STRATEGY, OPTIONS, log=tmp_path / "log", kills=True)
    done = []
    for each in fill(make_workers(job, "ray", 2, cluster.address), NAMED, 1):
        done.append(each)
        if len(done) == 3:
            cluster.remove_node(cluster.second, allow_graceful=False)
            cluster.add_node(**cluster.node)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    processes, finished = {pid for pid, _ in lines}, {key for _, key in lines}
    assert len(processes) >= 2 and len(finished) == 9 == sum(each.n_images for each in done)
    assert len(lines) <= 9 + 2, "computed twice: no more than each lost worker's image"
    check(bank)


def test_the_command_gives_the_results_of_one_process(capsys, cluster, tiny_sd_folder, tmp_path):
    command = ["evaluate", "--dataset", "mini-items", "--n-images", 12, "--trials", 3, "--model", tiny_sd_folder]
    assert run(capsys, *command, "--out", tmp_path / "single")[0] == 0
    more = ["--engine", "ray", "--workers", 2, "--ray-address", cluster.address, "--out", tmp_path / "ray"]
    status, text, _ = run(capsys, *command, *more)
    assert status == 0 and "360 denoiser evaluations, 30.0 an image\n" in text
    assert read_results(tmp_path / "ray") == read_results(tmp_path / "single")
