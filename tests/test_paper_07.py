"""Notebook 07 at the paper profile, tiny random networks and a folder of images standing in for the paper's."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from test_filters import save_tiny_filters
from test_paper_profile import CLASSES, judged, listener, run_alone, with_solutions  # noqa: F401 (a fixture)
from tiny import save_class_folder

from diffclf.datasets import load_dataset
from diffclf.datasets.crawl import crawled
from diffclf.mini.crawl import ARMS
from diffclf.models import load_model
from diffclf.paths import data_dir
from diffclf.search import ErrorSource, compute_errors
from diffclf.trials import TrialList, uniform
from diffclf.workbook.claims import read_claims
from diffclf.workbook.results import read_metrics, read_run

NAME = "07_training_filter"
N_SCORED = 60


@pytest.fixture
def made_up_data(tiny_sd_folder, tmp_path, monkeypatch):
    """A data folder in which a tiny model is all arms; all scores but those of the first two images are random."""
    folder = tmp_path / "data"
    (folder / "models").mkdir(parents=True)
    (folder / "scores").mkdir()
    for part in ("images", "paper"):
        (folder / part).symlink_to(data_dir() / part)
    base = folder / "models" / "mini-sd"
    shutil.copytree(tiny_sd_folder, base)
    for arm in ARMS:
        for part in ("unet", "text_encoder"):
            shutil.copytree(tiny_sd_folder / part, base / "versions" / f"crawl-{arm}" / part)
    model, (data, attributes) = load_model(tiny_sd_folder), crawled(load_dataset("mini-items", n_images=N_SCORED))
    errors = np.random.default_rng(0).uniform(0.5, 1.5, (3, 3, N_SCORED, 10)).astype(np.float32)
    source = ErrorSource(model, data.prompts_for(model), TrialList(uniform(25, 1000)), losses=("l2",))
    errors[:, 0, :2] = compute_errors(source, data.images[:2], desc=None).mean(axis=2)
    np.savez(folder / "scores" / "crawl.npz", errors=errors, labels=data.labels, attributes=attributes)
    monkeypatch.setenv("DIFFCLF_DATA", str(folder))
    return folder


@pytest.mark.slow
def test_the_filter_is_applied_to_other_images_and_the_arms_stay(made_up_data, listener, tmp_path):  # noqa: F811
    folder = with_solutions(tmp_path)
    clip, head, checker = map(str, save_tiny_filters(tmp_path / "filters"))
    images = str(save_class_folder(tmp_path / "images", CLASSES))
    content = yaml.safe_load((folder / f"{NAME}.yaml").read_text())
    content["settings"]["paper"] |= {"tasks": [images], "n_table": 5, "n_images": 2, "aesthetic_head": head}
    content["settings"]["paper"]["filters"] = {"aesthetic": clip, "safety": checker}
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(content))
    reports = run_alone(folder, "7", listener, tmp_path)
    assert read_run(reports)[NAME]["error"] == ""
    claims = judged(reports, NAME)
    assert claims.keys() == read_claims(NAME).keys() and {claim["world"] for claim in claims.values()} == {
        "the mini world"
    }
    assert read_metrics(reports, NAME)["largest relative difference to the stored scores"] < 1e-5
    table = pd.read_csv(reports / "tables" / f"{NAME}-table2.csv", index_col=0)
    assert table.index[0] == images and table.index[1] == "paper: Food101" and len(table) == 9
    assert table.loc[images, ["R", "Q", "R+Q+F"]].tolist() == [0, 0, 0], "pictures of at most 101 pixels, a random head"
    answers = pd.read_parquet(reports / "predictions" / f"{NAME}-arms.parquet")
    assert len(answers) == 9 * N_SCORED and set(answers["method"]) == {
        f"{arm}-{seed}" for arm in ARMS for seed in (1, 2, 3)
    }
