"""Profiles: which value wins, what is refused, and that the budgets fit."""

import json
import os
import re

import pandas as pd
import pytest
from PIL import Image

from diffclf.paths import data_dir
from diffclf.progress import progress
from diffclf.stats import Estimate
from diffclf.workbook import Workbook, plots
from diffclf.workbook.figures import number
from diffclf.workbook.settings import OFFLINE, profile_names, read_profile, reports_dir, resolve

SPINE = ["00_start_here", "01_shared_noise", "02_timestep_sensitivity", "03_timestep_strategies", "04_adaptive_pruning"]

# Denoiser evaluations that two cores do in the minutes that the notebooks have: at mini about nine, at 750 a second;
# at smoke a few seconds each.
LIMITS = {"smoke": 25_000, "mini": 400_000}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    profiles = tmp_path / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "mini.yaml").write_text(
        "common: {n_images: 100, model: m, scale: 1.5, fast: true, sizes: [1, 2]}\n01_x: {n_images: 50}\n02_y: {}\n"
    )
    (profiles / "full.yaml").write_text("common: {n_images: 1000}\n01_x: {}\n")
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.delenv("DIFFCLF_PROFILE", raising=False)


def test_the_more_special_value_wins(folder):
    assert resolve("02_y")["n_images"] == 100
    assert resolve("01_x")["n_images"] == 50
    assert resolve("01_x", parameters={"n_images": 7})["n_images"] == 7


@pytest.mark.parametrize("value", [0, "", None, [], ()])
def test_empty_means_the_profiles(folder, value):
    assert resolve("01_x", parameters={"n_images": value})["n_images"] == 50


def test_false_is_a_value(folder):
    assert resolve("01_x", parameters={"fast": False})["fast"] is False


def test_profile_by_argument_environment_default(folder, monkeypatch):
    assert resolve("01_x")["n_images"] == 50
    monkeypatch.setenv("DIFFCLF_PROFILE", "full")
    assert resolve("01_x")["n_images"] == 1000
    assert resolve("01_x", "mini")["n_images"] == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("01_x", "huge"), "profile must be one of full, mini, got 'huge'"),
        (("09_z",), r"section in profile 'mini' \(01_x, 02_y\), got '09_z'"),
        (("common",), "got 'common'"),
        (("01_x", "", {"n_imagse": 3}), r"n_images, .* got 'n_imagse'"),
        (("01_x", "", {"n_images": "3"}), "n_images must be of type int, got '3'"),
        (("01_x", "", {"n_images": True}), "n_images must be of type int, got True"),
        (("01_x", "", {"n_images": -3}), "n_images must be at least 1, got -3"),
        (("01_x", "", {"fast": 1}), "fast must be of type bool, got 1"),
        (("01_x", "", {"model": 3}), "model must be of type str, got 3"),
    ],
)
def test_refusals(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve(*arguments)


def test_int_for_float(folder):
    assert resolve("01_x", parameters={"scale": 2})["scale"] == 2


def test_committed_profiles_have_the_same_notebooks_and_settings():
    assert {"smoke", "mini", "full", "paper"} <= set(profile_names())
    mini = read_profile("mini")
    assert set(SPINE) <= set(mini)
    for profile in profile_names():
        sections = read_profile(profile)
        assert set(sections) == set(mini), profile
        for name in sections:
            settings = resolve(name, profile) if name != "common" else {}
            here, there = set(settings), set(resolve(name, "mini")) if name != "common" else set()
            assert here - {"download_gb"} == there - {"download_gb"}, (profile, name)


@pytest.mark.parametrize("profile", LIMITS)
def test_budgets_fit(profile):
    budgets = {name: section["evaluations"] for name, section in read_profile(profile).items() if name != "common"}
    assert all(isinstance(budget, int) and budget > 0 for budget in budgets.values())
    assert sum(budgets[name] for name in SPINE) <= LIMITS[profile]


def test_small_profiles_stay_off_the_network(monkeypatch):
    for name in OFFLINE:
        monkeypatch.setenv(name, "0")
    Workbook("01_shared_noise", profile="paper")
    assert [os.environ[name] for name in OFFLINE] == ["0", "0", "0"]
    Workbook("01_shared_noise", profile="smoke")
    assert [os.environ[name] for name in OFFLINE] == ["1", "1", "1"]


def test_workbook_settings_as_attributes():
    wb = Workbook("01_shared_noise", profile="smoke", seed=3, n_images=2)
    assert (wb.seed, wb.n_images, wb.settings["n_images"], wb.profile) == (3, 2, 2, "smoke")
    with pytest.raises(AttributeError, match="no setting 'n_imagse'"):
        _ = wb.n_imagse
    with pytest.raises(TypeError):
        wb.settings["n_images"] = 5
    with pytest.raises(ValueError, match="got 'bogus'"):
        Workbook("01_shared_noise", profile="smoke", bogus=1)


def test_paper_profile_takes_a_local_model_and_folder(tmp_path):
    wb = Workbook("02_timestep_sensitivity", profile="paper", model=str(tmp_path), dataset=str(tmp_path))
    assert wb.settings["model"] == wb.settings["dataset"] == str(tmp_path)


def test_figure_goes_to_files_with_its_description(capsys):
    wb = Workbook("01_shared_noise", profile="smoke")
    fig, ax = plots.new_figure()
    plots.curve(ax, [0, 1], [Estimate(1, 0, 2), Estimate(2, 1, 4)], label="run")
    wb.show(fig, alt="A line\n that rises to ε", name="figure2")
    stem = reports_dir("smoke") / "figures" / "01_shared_noise-figure2"
    with Image.open(stem.with_suffix(".png")) as image:
        assert image.info["Description"] == "A line that rises to ε"
        assert image.width > 700
    assert "<svg" in stem.with_suffix(".svg").read_text()
    assert capsys.readouterr().out == "A line that rises to ε\n"
    with pytest.raises(ValueError, match="alt must describe the figure .*figure2"):
        wb.show(plots.new_figure()[0], alt=" ", name="figure2")


def test_table_goes_to_csv_with_ends_of_intervals(capsys):
    wb = Workbook("01_shared_noise", profile="smoke")
    wb.table(pd.DataFrame({"name": ["a", "b"], "acc": [Estimate(0.5, 0.25, 0.75), None]}), "table6", caption="Title")
    table = pd.read_csv(reports_dir("smoke") / "tables" / "01_shared_noise-table6.csv")
    assert list(table.columns) == ["name", "acc", "acc low", "acc high"]
    assert table.loc[0, ["acc", "acc low", "acc high"]].tolist() == [0.5, 0.25, 0.75]
    assert table.loc[1, ["acc", "acc low", "acc high"]].isna().all()
    out = capsys.readouterr().out
    assert out.startswith("Title\n") and "0.500 [0.250, 0.750]" in out and "–" in out


def test_metrics_are_written_and_forgotten():
    wb = Workbook("01_shared_noise", profile="smoke")
    wb.record("accuracy", Estimate(0.5, 0.25, 0.75, n=4))
    wb.record("evaluations", 7)
    path = reports_dir("smoke") / "metrics" / "01_shared_noise.json"
    assert json.loads(path.read_text())["accuracy"]["high"] == 0.75
    assert json.loads(path.read_text())["evaluations"] == 7
    Workbook("02_timestep_sensitivity", profile="smoke")
    assert path.exists()
    Workbook("01_shared_noise", profile="smoke")
    assert not path.exists()


def test_provenance_is_shown_and_written(capsys):
    Workbook("01_shared_noise", profile="smoke", seed=4).provenance()
    out = capsys.readouterr().out
    assert re.search(r"torch \d", out) and "seed: 4" in out and "wall time: 0 min" in out
    record = json.loads((reports_dir("smoke") / "metrics" / "01_shared_noise.json").read_text())["provenance"]
    assert record["seed"] == 4 and record["environment"]["cores"] >= 1


def test_papers_numbers():
    wb = Workbook("04_adaptive_pruning", profile="smoke")
    assert wb.paper("table6_schedules")["rows"]["Pets"][3:] == [1890, 2050, 2050]
    assert wb.paper("fig3_pets_accuracy_single_t")[20] == [500, 46.3]
    with pytest.raises(ValueError, match="table1_zero_shot, .* got 'table99'"):
        wb.paper("table99")
    assert (data_dir() / "paper" / "README.md").is_file()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (1.5, "1.50"),
        (12.345, "12.3"),
        (12345.6, "12,346"),
        (3, "3"),
        (3.0, "3"),
        (-0.5, "−0.500"),
        (float("nan"), "–"),
        (None, "–"),
        (float("inf"), "∞"),
        ("x", "x"),
        (True, "True"),
        (1e-9, "1.00e-09"),
    ],
)
def test_numbers_for_readers(value, text):
    assert number(value) == text


def test_progress_is_silent_in_a_pipe_and_speaks_to_the_runner(tmp_path, monkeypatch, capsys):
    for name in ("JPY_SESSION_NAME", "VSCODE_PID", "DIFFCLF_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    assert sum(progress(range(5), desc="counting")) == 10
    monkeypatch.setenv("DIFFCLF_PROGRESS", str(tmp_path / "progress"))
    assert sum(progress(range(5), desc="counting")) == 10
    assert sum(progress(range(5), desc="unwanted", enabled=False)) == 10
    text = (tmp_path / "progress").read_text()
    assert "counting" in text and "5/5" in text
    monkeypatch.delenv("DIFFCLF_PROGRESS")
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    assert capsys.readouterr() == ("", "")
    assert sum(progress(range(5), desc="watched")) == 10
    assert "watched" in capsys.readouterr().err
