"""The notebook's object: settings as attributes, figures, tables, numbers and provenance on screen and in files."""

import json
import os
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants
from PIL import Image

from diffclf.experiments.field import Field
from diffclf.paths import data_dir
from diffclf.stats import Estimate
from diffclf.trials import TrialList
from diffclf.workbook import Workbook
from diffclf.workbook.display import html_text, number
from diffclf.workbook.settings import OFFLINE, reports_dir

NAME = "01_shared_noise"


@pytest.fixture
def wb():
    return Workbook(NAME, profile="smoke")


def test_settings_are_attributes():
    wb = Workbook(NAME, profile="smoke", seed=3, n_images=2)
    assert (wb.seed, wb.n_images, wb.settings["n_images"], wb.profile) == (3, 2, 2, "smoke")
    assert repr(wb).startswith(f"Workbook({NAME!r}, profile='smoke', model='mini-sd'")
    with pytest.raises(AttributeError, match="no setting 'n_imagse'"):
        _ = wb.n_imagse
    with pytest.raises(TypeError):
        wb.settings["n_images"] = 5
    with pytest.raises(ValueError, match="got 'bogus'"):
        Workbook(NAME, profile="smoke", bogus=1)


def test_small_profiles_stay_off_the_network(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in OFFLINE:
        monkeypatch.setenv(name, "0")
    Workbook(NAME, profile="paper")
    assert [os.environ[name] for name in OFFLINE] == ["0", "0", "0"]
    Workbook(NAME, profile="smoke")
    assert [os.environ[name] for name in OFFLINE] == ["1", "1", "1"] and constants.HF_HUB_OFFLINE


def test_model_data_and_bank_come_from_the_settings(wb, tiny_sd_folder):
    model, images = wb.model(), wb.dataset()
    assert model is wb.model("mini-sd") and model.name == "mini-sd"
    assert (images.name, len(images)) == ("mini-items", 6)
    assert len(wb.dataset("tune", "mini-coloured-items", 3)) == 3
    bank = wb.bank(model, ["a bag", "a boot"], TrialList([10, 500]), losses=("l1",))
    assert bank.path.parent == reports_dir() / "bank" and (bank.seed, bank.losses) == (0, ("l1",))
    other = Workbook(NAME, profile="paper", model=str(tiny_sd_folder))
    assert other.model().name == str(tiny_sd_folder)
    again = Workbook(NAME, profile="smoke", model=model)
    assert again.model() is model and again.settings["model"] == "mini-sd", "a loaded model stands for its name"


def test_figure_goes_to_files_with_its_description(wb, capsys):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [1, 2])
    wb.show(fig, alt="A line\n that rises to ε", name="figure2")
    stem = reports_dir("smoke") / "figures" / f"{NAME}-figure2"
    with Image.open(stem.with_suffix(".png")) as image:
        assert image.info["Description"] == "A line that rises to ε"
        assert image.width > 500
    assert "<svg" in stem.with_suffix(".svg").read_text()
    assert capsys.readouterr().out == "A line that rises to ε\n"
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="alt must describe the figure .*figure2"):
        wb.show(fig, alt=" ", name="figure2")


def test_table_goes_to_csv_with_ends_of_intervals(wb, capsys):
    wb.table(pd.DataFrame({"name": ["a", "b"], "acc": [Estimate(0.5, 0.25, 0.75), None]}), "table6", caption="Title")
    table = pd.read_csv(reports_dir("smoke") / "tables" / f"{NAME}-table6.csv")
    assert list(table.columns) == ["name", "acc", "acc low", "acc high"]
    assert table.loc[0, ["acc", "acc low", "acc high"]].tolist() == [0.5, 0.25, 0.75]
    assert table.loc[1, ["acc", "acc low", "acc high"]].isna().all()
    out = capsys.readouterr().out
    assert out.startswith("Title\n") and "0.500 [0.250, 0.750]" in out and "–" in out


def test_metrics_are_written_and_forgotten(wb):
    wb.record("accuracy", Estimate(0.5, 0.25, 0.75, n=4))
    wb.record("evaluations", 7)
    path = reports_dir("smoke") / "metrics" / f"{NAME}.json"
    assert json.loads(path.read_text())["accuracy"]["high"] == 0.75
    assert json.loads(path.read_text())["evaluations"] == 7
    Workbook("02_timestep_sensitivity", profile="smoke")
    assert path.exists()
    Workbook(NAME, profile="smoke")
    assert not path.exists()


def test_provenance_is_shown_and_written(capsys):
    wb = Workbook(NAME, profile="smoke", seed=4)
    model = wb.model()
    wb.provenance()
    out = capsys.readouterr().out
    assert re.search(r"torch \d", out) and "seed = 4" in out and "Wall time: " in out
    assert f"mini-sd, weights {model.fingerprint}, float32 on cpu" in out
    record = json.loads((reports_dir("smoke") / "metrics" / f"{NAME}.json").read_text())["provenance"]
    assert record["seed"] == 4 and record["environment"]["cores"] >= 1
    assert record["model"]["fingerprint"] == model.fingerprint


def test_papers_numbers(wb):
    assert wb.paper("table6_schedules")["rows"]["Pets"][3:] == [1890, 2050, 2050]
    assert wb.paper("fig3_pets_accuracy_single_t")[20] == [500, 46.3]
    with pytest.raises(ValueError, match="table1_zero_shot, .* got 'table99'"):
        wb.paper("table99")
    assert (data_dir() / "paper" / "README.md").is_file()


NUMBERS = {0.12345: "0.123", 1.5: "1.50", 12.345: "12.3", 12345.6: "12,300", 3.0: "3", -0.5: "−0.500", 1e-9: "1.00e−09"}
ROUNDED = {9.996: "10.0", 0.9996: "1.00", 0.05: "0.0500", -0.0: "0", -7.000000000000001: "−7", 999.6: "1,000"}
OTHERS = {2050: "2,050", float("nan"): "–", None: "–", float("-inf"): "−∞", float("inf"): "∞", "x": "x", True: "True"}


@pytest.mark.parametrize(("value", "text"), [*NUMBERS.items(), *ROUNDED.items(), *OTHERS.items()])
def test_numbers_for_readers(value, text):
    assert number(value) == text


def test_text_from_outside_cannot_leave_its_place():
    assert html_text("a <b> & \"c\"\n```\n'd'") == "a &lt;b&gt; &amp; &quot;c&quot; &#96;&#96;&#96; &#x27;d&#x27;"


def test_predictions_are_a_parquet_file_that_a_new_run_removes(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_REPORTS", str(tmp_path))
    field = Field(np.array([1, 0]), np.array([7, 7]), {"a": np.array([1, 1]), "b": np.array([0, 0])})
    wb = Workbook("00_start_here", "smoke")
    wb.predictions(pd.DataFrame(field.columns("items")), "all")
    path = tmp_path / "smoke" / "predictions" / "00_start_here-all.parquet"
    found = pd.read_parquet(path)
    assert found.columns.tolist() == ["task", "method", "image", "group", "label", "predicted"]
    assert found.task.unique().tolist() == ["items"] and found.group.unique().tolist() == [7]
    assert found.values[:, 1:].tolist() == [["a", 0, 7, 1, 1], ["a", 1, 7, 0, 1], ["b", 0, 7, 1, 0], ["b", 1, 7, 0, 0]]
    right = (found.label == found.predicted).groupby(found.method).mean()
    assert all(right[name] == field.right(name).mean() for name in "ab")
    Workbook("00_start_here", "smoke")
    assert not path.exists()
