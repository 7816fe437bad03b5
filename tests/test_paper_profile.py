"""The paper profile from end to end, tiny random models and data sets standing in for the paper's (`stand_ins`)."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from stand_ins import CLASSES, N_EXAMPLES, PAPER, notebooks, save_stand_ins
from tiny import save_class_folder

from diffclf.commands.main import main
from diffclf.mini.crawl import ARMS
from diffclf.trials import TrialList
from diffclf.workbook import Workbook
from diffclf.workbook.claims import read_claims
from diffclf.workbook.results import read_judged, read_metrics, read_run
from diffclf.workbook.run.cost import downloads, evaluations
from diffclf.workbook.run.plan import Job, plan
from diffclf.workbook.settings import OFFLINE, notebooks_dir

SPINE = ["00_start_here", "01_shared_noise", "02_timestep_sensitivity", "03_timestep_strategies", "04_adaptive_pruning"]
DESIGNS = SPINE[3]
CHECKOUT = Path(__file__).parents[1]
# Claims about networks that must be trained for the data set first, sixty classes, and a label tree.
NOT_JUDGED = {
    "06_zero_shot": {"above-synthetic-data", "above-features"},
    "14_racing": {"race-keeps-accuracy-60", "race-beats-staged-60", "winners-are-kept-60", "tree-grows-slower"},
}


def reproduce(folder, *arguments, **variables):
    """Run `diffclf reproduce --profile paper` for a folder of results; whoever asks the network waits for ever.

    Every way to the network leads to a proxy that serves nobody.
    """
    kinds = ("http_proxy", "https_proxy", "all_proxy")
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment |= dict.fromkeys([*kinds, *map(str.upper, kinds)], address) | {"no_proxy": "", "NO_PROXY": ""}
        environment |= {name: str(value) for name, value in variables.items()} | {"DIFFCLF_REPORTS": str(folder.parent)}
        done = subprocess.run(
            [sys.executable, "-m", "diffclf", "reproduce", "--profile", "paper", *arguments],
            env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=3600,
        )  # fmt: skip
        with pytest.raises(BlockingIOError):  # nobody has asked
            server.accept()
    return done


def judged(folder, name):
    return {claim["id"]: claim for claim in read_judged(folder) if claim["notebook"] == name}


# All notebooks, with their own models and data sets by name, two at a time


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The results of one run of all notebooks."""
    root = tmp_path_factory.mktemp("paper")
    save_stand_ins(root)
    offline = dict.fromkeys(OFFLINE, 1)  # with a hub to ask, its libraries ask whether the cache is up to date
    folder = root / "reports" / "paper"
    done = reproduce(folder, "--jobs", "2", **offline, HF_HOME=root, DIFFCLF_NOTEBOOKS=root / "notebooks")
    print(done.stdout, done.stderr)
    return folder


@pytest.mark.paper
@pytest.mark.parametrize("name", notebooks().values())
def test_a_notebook_comes_to_its_end(paper, name):
    record = read_run(paper)[name]
    assert record["error"] == ""
    assert judged(paper, name).keys() == set(read_claims(name)) - NOT_JUDGED.get(name, set())
    worlds = {"the mini world"} if name == "07_training_filter" else {""}
    assert {claim["world"] for claim in judged(paper, name).values()} == worlds
    said = str([cell.get("outputs") for cell in nbformat.read(paper / "notebooks" / f"{name}.ipynb", 4).cells])
    assert "Warning" not in said and list((paper / "figures").glob(f"{name}-*.png"))
    assert (paper / "html" / "nb" / f"{name}.html").is_file()


@pytest.mark.paper
def test_doctor_misses_nothing(paper, monkeypatch, capsys):
    root = paper.parents[1]
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(root / "notebooks"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
    assert main(["doctor", "--profile", "paper", "--seconds", "1"]) == 0
    assert "Nothing is missing." in capsys.readouterr().out


@pytest.mark.paper
def test_first_notebooks_compute_what_they_must(paper):
    n_pets, n_images, n_trials, n_repeats = 37, *PAPER.values()
    counted = 2 * 1000 * 4 + n_pets * 8 * 20 * 4 + 3 * n_pets * 8 * n_trials
    assert read_metrics(paper, SPINE[1])["n_evaluations"] == counted
    designs = n_images * n_pets * 39 * n_repeats  # 02 runs beside 03 and may be the first with some of its errors
    assert designs <= read_metrics(paper, SPINE[3])["n_evaluations"] <= designs + n_images * n_pets * n_trials
    errors = (paper / "tables" / "00_start_here-errors.csv").read_text().splitlines()
    assert len(errors) == 1 + n_pets and "samoyed" in str(errors)


@pytest.mark.paper
def test_networks_with_classes_are_the_papers(paper):
    assert read_metrics(paper, "05_objectives")["n_evaluations"] == (4 + 2) * (37 + 4) * 3 + 3 * 3 * 4 * 3
    assert read_metrics(paper, "09_supervised")["evaluations"] == 3 * 4 * 8
    table = (paper / "tables" / "10_ood_robustness-table4.csv").read_text()
    assert all(name in table for name in ("resnet-18", "deit-base-patch16-224")) and "mini-resnet" not in table


@pytest.mark.paper
def test_the_filter_is_applied_to_other_images_and_the_arms_stay(paper):
    name = "07_training_filter"
    assert read_metrics(paper, name)["largest relative difference to the stored scores"] < 1e-4
    table = pd.read_csv(paper / "tables" / f"{name}-table2.csv", index_col=0)
    assert table.index[0] == "pets" and table.index[2] == "paper: Food101" and len(table) == 10
    assert table.loc["pets", ["R", "R+Q+F"]].tolist() == [0, 0], "pictures of six pixels"
    answers = pd.read_parquet(paper / "predictions" / f"{name}-arms.parquet")
    assert set(answers["method"]) == {f"{arm}-{seed}" for arm in ARMS for seed in (1, 2, 3)}


@pytest.mark.paper
def test_pairs_of_captions_are_answered_and_their_images_are_not_published(paper):
    name = "08_compositionality"
    assert judged(paper, name)["above-the-larger-clip"]["n"] == N_EXAMPLES
    answers = pd.read_parquet(paper / "predictions" / f"{name}-table3.parquet")
    assert len(answers) == N_EXAMPLES * 2 * 3 and set(answers["task"]) == {"object", "relation", "both"}
    assert "<image" not in (paper / "figures" / f"{name}-figure5.svg").read_text(), "Winoground's licence"


@pytest.mark.paper
def test_round_trips_and_maps_of_photographs(paper):
    name = "11_interpretability"
    assert {claim["n"] for claim in judged(paper, name).values()} == {4, 5}
    answers = pd.read_parquet(paper / "predictions" / f"{name}-reconstruction.parquet")
    assert len(answers) == 2 * 4 and set(answers["method"]) == {"diffusion classifier", "reconstruction"}
    for figure in ("figure7", "maps", "altered", "curves"):
        assert (paper / "figures" / f"{name}-{figure}.png").stat().st_size > 5000, figure


# One notebook, with a model and a folder of images of one's own


@pytest.fixture(scope="module")
def stand_ins(tiny_sd_folder, tmp_path_factory):
    """A pipeline and a folder with a folder per class: small pictures of odd sizes and kinds."""
    return tiny_sd_folder, save_class_folder(tmp_path_factory.mktemp("paper") / "images", CLASSES)


def given(stand_ins, **sizes):
    values = {"model": stand_ins[0], "dataset": stand_ins[1], **sizes}
    return [word for name, value in values.items() for word in ("-p", name, str(value))]


@pytest.fixture
def half_precision(tmp_path):
    """A copy of the notebooks whose paper profile asks for float16, also without CUDA."""
    folder = shutil.copytree(notebooks_dir(), tmp_path / "notebooks")
    common = yaml.safe_load((folder / "common.yaml").read_text())
    common["paper"]["dtype"] = "float16"
    (folder / "common.yaml").write_text(yaml.safe_dump(common))
    return folder


@pytest.mark.paper
def test_one_notebook_in_half_precision(stand_ins, tmp_path, half_precision):
    folder = tmp_path / "reports" / "paper"
    variables = {"DIFFCLF_NOTEBOOKS": half_precision, "HF_HOME": tmp_path}
    done = reproduce(folder, "--only", "03", *given(stand_ins, **PAPER), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_run(folder)[DESIGNS]
    assert (record["settings"]["dataset"], record["settings"]["n_images"]) == (str(stand_ins[1]), 5)
    assert (record["model"]["name"], record["model"]["dtype"]) == (str(stand_ins[0]), "float16")
    page = (folder / "html" / "index.html").read_text()
    assert f"{stand_ins[0]}, weights" in page and ", float16" in page and f"5 of {stand_ins[1]}" in page
    assert "mini world" not in page
    assert read_metrics(folder, DESIGNS)["n_evaluations"] == 5 * 4 * (10 + 2 * 39)
    claims = judged(folder, DESIGNS)
    assert len(claims) == 4 and all(claim["verdict"] and claim["n"] == 5 for claim in claims.values())
    assert {claim["world"] for claim in claims.values()} == {""}
    assert (folder / "figures" / f"{DESIGNS}-figure4.png").is_file()


def test_half_precision_only_rounds(stand_ins, monkeypatch, half_precision):
    """Errors in float16 are those in float32 to its accuracy: noise, table and reductions stay in float32."""
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(half_precision))
    errors, common = {}, half_precision / "common.yaml"
    for dtype in ("float16", "float32"):
        common.write_text(common.read_text().replace("dtype: float16", f"dtype: {dtype}"))
        wb = Workbook(DESIGNS, "paper", model=str(stand_ins[0]), dataset=str(stand_ins[1]), n_images=5)
        model, images = wb.model(), wb.dataset()
        assert str(model.dtype) == f"torch.{dtype}" and str(model.vae.dtype) == "torch.float32"
        errors[dtype] = wb.bank(model, list(images.prompts.values()), TrialList([0, 1, 500, 999])).errors(images.images)
    assert errors["float16"].dtype == np.float32
    np.testing.assert_allclose(errors["float16"], errors["float32"], rtol=5e-3)
    assert not np.array_equal(errors["float16"], errors["float32"])


# What a run will cost


def test_dry_run_without_network_says_what_is_not_here(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    def refuse(*arguments):
        raise AssertionError(f"asked the network: {arguments}")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(["reproduce", "--profile", "paper", "--dry-run"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name in (*SPINE, "total"):
        assert "sd-2-base (about 5.2 GB), pets (about 0.4 GB, timm/oxford-" in lines[name]
        assert "not measured" in lines[name]
    assert lines["total"].split()[1] == f"{sum(map(evaluations, plan('paper'))):,}"


def test_downloads_are_the_models_and_data_sets_of_the_settings(tmp_path, monkeypatch):
    asked = []

    def in_cache(repository, repo_type, revision, local_files_only):
        asked.append((repository, repo_type, revision))
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("diffclf.workbook.run.cost.snapshot_download", in_cache)
    settings = {"class_model": "owner/dit@refs/pr/1", "networks": ["mini-resnet-m@2", "owner/vit"], "n_images": 3}
    settings |= {"sets": {"V2": "imagenet-v2", "A": "filter-resnet"}, "download_gb": {"owner/vit": 0.3}}
    settings |= {"shifted": {"imagenet-v2": {"images": 5}, "mini-a": {"images": 5}}}
    found = downloads(Job("x", tmp_path, settings=settings))
    assert list(found) == ["owner/dit@refs/pr/1", "owner/vit", "imagenet-v2"]
    assert found["owner/vit"] == "owner/vit (about 0.3 GB)"
    assert found["imagenet-v2"] == "imagenet-v2 (clip-benchmark/wds_imagenetv2, MIT)"
    assert asked == [("owner/dit", "model", "refs/pr/1"), ("owner/vit", "model", None)]
    assert not downloads(Job("x", tmp_path, settings={"class_model": str(tmp_path), "sets": {"V2": str(tmp_path)}}))


def test_dry_run_with_a_local_model_estimates_time(stand_ins, monkeypatch, capsys):
    monkeypatch.setattr("diffclf.workbook.run.cost.measure_rate", lambda model, size: 1000.0)
    assert main(["reproduce", "--profile", "paper", "--only", "0,1", "--dry-run", *given(stand_ins, n_images=5)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[1][1] == f"{2 * 1000 * 4 + 5 * 37 * 20 * 4 + 3 * 37 * 5 * 25:,}"
    assert all("about" in row and row[-1] == "none" for row in rows) and len(rows) == 3
