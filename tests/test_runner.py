"""The runner, on made-up notebooks: what goes well, what fails, what is refused, and what is written down."""

import json
import os

import nbformat
import pytest
from notebook_maker import write_notebook, write_workbook

from diffclf.workbook.cost import evaluations, measure_rate, report_cost
from diffclf.workbook.plan import plan
from diffclf.workbook.runner import claims_table, reproduce
from diffclf.workbook.settings import reports_dir

GOOD = [
    "from diffclf.workbook import Workbook\n"
    'wb = Workbook("01_good", profile=profile, seed=seed, n_images=n_images)\n'
    "print(wb.n_images, wb.seed)",
    'wb.claim("more-is-better", 5.0, 1.0, 9.0, n=10)\nwb.provenance()',
    "import os\nprint(os.getcwd(), os.environ['HF_HUB_OFFLINE'], os.environ['OMP_WAIT_POLICY'])",
]

BAD = (
    "from diffclf.workbook import Workbook\n"
    'Workbook("02_error", profile).claim("never-counted", 5.0, 1.0, 9.0)\n'
    "print('before')"
)

CLAIMS = [("01_good", "more-is-better", "test"), ("02_error", "never-counted", "test")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path / "notebooks"))
    return tmp_path / "notebooks"


def executed(name):
    return nbformat.read(reports_dir("mini") / "notebooks" / f"{name}.ipynb", as_version=4)


def run_json():
    return json.loads((reports_dir("mini") / "run.json").read_text())["notebooks"]


def test_good_failing_and_killed_notebooks_side_by_side(folder, capsys):
    notebooks = {
        "01_good": GOOD,
        "02_error": [BAD, "raise RuntimeError('on purpose')", "print('after')"],
        "03_killed": ["print('alive')", "import os\nos.kill(os.getpid(), 9)"],
    }
    write_workbook(folder, notebooks, CLAIMS)
    write_notebook(folder, "04_untagged", ["print(1)"], tag="other")
    assert reproduce("mini", parameters={"seed": "7"}, jobs=2) == 1
    out = capsys.readouterr().out
    records = run_json()
    assert {name: record["status"] for name, record in records.items()} == {
        "01_good": "ok",
        "02_error": "failed",
        "03_killed": "failed",
        "04_untagged": "failed",
    }
    assert records["02_error"]["error"].startswith("RuntimeError: on purpose")
    assert "DeadKernelError" in records["03_killed"]["error"]
    assert "one cell tagged 'parameters'" in records["04_untagged"]["error"]
    assert "1 of 4 notebooks" in out and "FAILED 02_error" in out and "ok     01_good" in out

    good = records["01_good"]
    assert good["parameters"] == {"profile": "mini", "seed": 7} and good["seed"] == 7
    assert good["environment"]["packages"]["papermill"] and good["environment"]["threads"] >= 1
    assert good["seconds"] > 0
    printed = [cell.outputs[0].text for cell in executed("01_good").cells if cell.cell_type == "code" and cell.outputs
               and "text" in cell.outputs[0]]  # fmt: skip
    assert printed == ["10 7\n", f"{folder} 1 PASSIVE\n"]
    assert any("before" in str(cell.get("outputs", "")) for cell in executed("02_error").cells)
    assert (reports_dir("mini") / "claims" / "02_error.json").is_file() and "never-counted" not in out
    assert "✓ holds" in out and "more-is-better" in out and "5 [1, 9]" in out


def test_only_and_merging_of_records(folder, monkeypatch):
    outcomes = iter(["ok", "RuntimeError: no", "ok"])
    monkeypatch.setattr("diffclf.workbook.runner._execute", lambda *arguments: next(outcomes))
    write_workbook(folder, {"01_one": ["x = 1"], "02_two": ["y = 1"]})
    assert reproduce("mini", only=["2"]) == 0
    assert {name: record["status"] for name, record in run_json().items()} == {"02_two": "ok"}
    assert reproduce("mini", only=["01_one"]) == 1
    assert [record["status"] for record in run_json().values()] == ["failed", "ok"]
    assert reproduce("mini", only=["01"]) == 0
    assert {name: record["status"] for name, record in run_json().items()} == {"01_one": "ok", "02_two": "ok"}
    assert not list(reports_dir("mini").glob("**/*.partial"))


def test_an_interrupted_notebook_does_not_count(folder, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffclf.workbook.runner._execute", interrupt)
    write_workbook(folder, {"01_one": ["x = 1"]})
    with pytest.raises(KeyboardInterrupt):
        reproduce("mini")
    assert run_json()["01_one"]["status"] == "running"
    assert run_json()["01_one"]["error"] == "the run was interrupted"
    (reports_dir("mini") / "claims").mkdir()
    (reports_dir("mini") / "claims" / "01_one.json").write_text('{"claims": [{"kind": "test"}]}')
    assert claims_table(reports_dir("mini")) == "No claims were judged."


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_imagse": "3"}, r"n_images, seed\), got 'n_imagse'"),
        ({"n_images": "many"}, "n_images must be of type int, got 'many'"),
        ({"n_images": "2.5"}, "n_images must be of type int, got 2.5"),
        ({"n_images": "-3"}, "n_images must be at least 1, got -3"),
        ({"profile": "full"}, "--profile"),
    ],
)
def test_parameters_are_refused_before_anything_runs(folder, parameters, message):
    write_workbook(folder, {"01_one": ["x = 1"]})
    with pytest.raises(ValueError, match=message):
        reproduce("mini", parameters=parameters)
    assert not reports_dir("mini").exists()


def test_parameter_goes_only_to_notebooks_that_have_it(folder):
    write_workbook(folder, {"01_one": ["x = 1"], "02_two": ["y = 1"]})
    write_notebook(folder, "02_two", ["y = 1"], parameters='profile: str = ""\nwidth: float = 0.0')
    first, second = plan("mini", parameters={"width": "3"})
    assert first.parameters == {"profile": "mini"}
    assert second.parameters == {"profile": "mini", "width": 3.0}
    assert isinstance(second.parameters["width"], float)


@pytest.mark.parametrize(("only", "message"), [(["07"], "got '07'"), (["one"], "got 'one'")])
def test_unknown_notebook(folder, only, message):
    write_workbook(folder, {"01_one": ["x = 1"]})
    with pytest.raises(ValueError, match=message):
        reproduce("mini", only=only)


def test_unknown_profile(folder):
    write_workbook(folder, {"01_one": ["x = 1"]})
    with pytest.raises(ValueError, match="profile must be one of mini, got 'huge'"):
        reproduce("huge")


class Clock:
    """A model whose forward pass takes a fixed time per evaluation."""

    def __init__(self, seconds):
        import torch

        self.seconds, self.batches, self.device, self.labels, self.latent_shape = (
            seconds, [], torch.device("cpu"), None, (4, 2, 2),
        )  # fmt: skip

    def encode_prompts(self, prompts):
        import torch

        return torch.zeros(len(prompts), 3)

    def denoise(self, x_t, t, cond):
        import time

        assert x_t.shape[0] == t.shape[0] == cond.shape[0]
        self.batches.append(len(t))
        time.sleep(self.seconds * len(t))
        return x_t


def test_rate_is_evaluations_per_second():
    model = Clock(0.002)
    assert measure_rate(model, seconds=0.5) == pytest.approx(500, rel=0.15)
    assert max(model.batches) <= 64


def test_dry_run_adds_up_and_runs_nothing(folder, capsys, monkeypatch):
    write_workbook(folder, {"01_one": ["x = 1"], "02_two": ["y = 1"]})
    jobs = plan("mini", parameters={"n_images": 20})
    assert [evaluations(job, "mini") for job in jobs] == [2000, 2000]  # twice the images, twice the budget
    rows = report_cost(jobs, "mini", rate=lambda name: 10.0)
    assert [row[1] for row in rows] == ["2,000", "2,000", "4,000"]
    assert [row[2] for row in rows] == ["about 3 min", "about 3 min", "about 7 min"]
    assert rows[-1][3] == "none"
    rows = report_cost(jobs, "mini", rate=lambda name: "no such model")
    assert rows[-1][2] == "not measured"
    monkeypatch.setattr("diffclf.workbook.cost._rate", lambda name: 10.0)
    assert reproduce("mini", dry_run=True) == 0
    assert "total     2,000        about 3 min  none" in capsys.readouterr().out
    assert not os.path.exists(reports_dir("mini"))


def test_dry_run_names_downloads(folder):
    write_workbook(folder, {"01_one": ["x = 1"]})
    profile = folder / "profiles" / "mini.yaml"
    text = profile.read_text().replace("mini-sd", "nobody/no-model").replace("mini-items", "pets")
    profile.write_text(text + "\n  download_gb: {nobody/no-model: 5.2}\n")
    row = report_cost(plan("mini"), "mini", rate=lambda name: 10.0)[0]
    assert row[3] == "nobody/no-model (about 5.2 GB), pets"
    assert row[2] == "not measured (model not here)"


def test_model_and_dataset_can_be_local_folders(folder, tmp_path):
    write_workbook(folder, {"01_one": ["x = 1"]})
    write_notebook(folder, "01_one", ["x = 1"], parameters='profile: str = ""\nmodel: str = ""\ndataset: str = ""')
    (job,) = plan("mini", parameters={"model": str(tmp_path), "dataset": str(tmp_path)})
    assert job.settings["model"] == job.settings["dataset"] == str(tmp_path)
    assert report_cost([job], "mini", rate=lambda name: 10.0)[0][3] == "none"
