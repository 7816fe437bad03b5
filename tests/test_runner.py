"""The runner, on made-up notebooks: what goes well, what fails, what is an error, and what is written down."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from notebook_maker import make_claim, write_notebook

from diffclf.commands.main import main
from diffclf.progress import progress
from diffclf.workbook.provenance import environment
from diffclf.workbook.results import read_judged, read_run
from diffclf.workbook.run import runner
from diffclf.workbook.run.cost import cost_report, evaluations
from diffclf.workbook.run.plan import plan
from diffclf.workbook.run.runner import reproduce
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path / "notebooks"))
    return tmp_path / "notebooks"


def cells(name):
    return nbformat.read(reports_dir("mini") / "notebooks" / f"{name}.ipynb", as_version=4).cells


def statuses():
    return {name: record["status"] for name, record in read_run(reports_dir("mini")).items()}


def test_good_failing_and_killed_notebooks_side_by_side(folder, capsys):
    write_notebook(folder, "01_good", GOOD, [make_claim("more-is-better")])
    write_notebook(folder, "02_error", [BAD, "raise RuntimeError('on purpose')"], [make_claim("never-counted")])
    write_notebook(folder, "03_killed", ["print('alive')", "import os\nos.kill(os.getpid(), 9)"])
    write_notebook(folder, "04_untagged", ["print(1)"], tag="other")
    assert reproduce("mini", parameters={"seed": "7"}, n_parallel=2) == 1
    out, records = capsys.readouterr().out, read_run(reports_dir("mini"))
    assert statuses() == {"01_good": "ok", "02_error": "failed", "03_killed": "failed", "04_untagged": "failed"}
    assert records["02_error"]["error"].startswith("RuntimeError: on purpose")
    assert "DeadKernelError" in records["03_killed"]["error"]
    assert "one cell tagged 'parameters'" in records["04_untagged"]["error"]
    assert "1 of 4 notebooks" in out and "FAILED  02_error" in out and "ok      01_good" in out

    good = records["01_good"]
    assert good["parameters"] == {"profile": "mini", "seed": 7} and good["seed"] == 7
    assert good["environment"]["packages"]["papermill"] and good["environment"]["threads"] >= 1
    assert good["seconds"] > 0
    printed = [cell.outputs[0].text for cell in cells("01_good") if cell.get("outputs") and "text" in cell.outputs[0]]
    assert printed == ["10 7\n", f"{folder} 1 PASSIVE\n"]
    assert any("before" in str(cell.get("outputs", "")) for cell in cells("02_error"))
    assert (reports_dir("mini") / "claims" / "02_error.json").is_file() and "never-counted" not in out
    assert "✓ holds" in out and "more-is-better" in out and "5 [1, 9]" in out

    write_notebook(folder, "02_error", ["print(1)"], tag="other")
    assert reproduce("mini", only=["2"]) == 1, "other notebooks' records stay, its own results go"
    assert statuses() == {"01_good": "ok", "02_error": "failed", "03_killed": "failed", "04_untagged": "failed"}
    assert not (reports_dir("mini") / "claims" / "02_error.json").exists()


def command(*arguments, **options):
    """Start the command line in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, *arguments], cwd=Path(__file__).parents[1], **options)


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited for a minute")


def test_an_interrupted_notebook_does_not_count(folder):
    claims = [make_claim("more-is-better")]
    write_notebook(folder, "01_good", [*GOOD[:2], "import time\ntime.sleep(60)"], claims)
    write_notebook(folder, "02_next", ["x = 1"])
    command = [sys.executable, "-m", "diffclf", "reproduce", "--jobs", "1", "--profile", "mini", "--no-report"]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background would ignore the signal
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heed}
    claimed = reports_dir("mini") / "claims" / "01_good.json"
    with tempfile.TemporaryDirectory() as scratch:  # a short path, as sockets need
        options["env"] = {**os.environ, "TMPDIR": scratch}
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], **options)
        wait_for(claimed.is_file)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert not list(Path(scratch).glob("dc*")), "folders of the runner must be removed"
    assert "interrupted" in err and process.returncode == 130
    assert "stopped 01_good  the run was interrupted" in out and "FAILED" not in out
    (record,) = read_run(reports_dir("mini")).values()
    assert (record["status"], record["error"]) == ("failed", "the run was interrupted")
    assert claimed.is_file() and read_judged(reports_dir("mini")) == []


def test_one_run_at_a_time_and_a_killed_one_leaves_no_lock_and_no_worker(folder, capsys):
    marker = folder.parent / "alive"
    beats = f"import time\nfor _ in range(600):\n    open({str(marker)!r}, 'a').write('x')\n    time.sleep(0.1)"
    write_notebook(folder, "01_long", [beats])
    process = command("-m", "diffclf", "reproduce", "--profile", "mini", "--no-report")
    wait_for(marker.is_file)
    assert main(["reproduce", "--profile", "mini", "--no-report"]) == 2
    err = capsys.readouterr().err
    assert f"process {process.pid} (__main__.py reproduce --profile mini --no-report), since 20" in err
    assert "holds" in err and ".lock; wait for its end" in err and err.count("\n") == 1
    assert statuses() == {"01_long": "running"}
    process.kill()
    process.communicate()

    def quiet():
        before = marker.stat().st_size
        time.sleep(1)
        return marker.stat().st_size == before

    wait_for(quiet)
    write_notebook(folder, "01_long", ["x = 1"])
    assert reproduce("mini") == 0 and statuses() == {"01_long": "ok"}


@pytest.mark.parametrize("kernel", [None, {"name": "julia-1.9", "display_name": "Julia", "language": "julia"}])
def test_any_kernel_or_none_in_the_file_means_the_projects_own(folder, kernel):
    write_notebook(folder, "01_one", ["import sys\nprint(sys.executable)"])
    path = folder / "01_one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {"kernelspec": kernel} if kernel else {}
    nbformat.write(notebook, path)
    assert reproduce("mini", parameters={"seed": "3"}) == 0
    assert [cell.outputs[0].text for cell in cells("01_one") if cell.get("outputs")] == [f"{sys.executable}\n"]


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": 3}', "", "\0"])
def test_a_file_that_is_no_notebook_stops_no_other(folder, content, capsys):
    write_notebook(folder, "01_one", ["x = 1"])
    (folder / "01_one.ipynb").write_text(content)
    (job,) = plan("mini")
    assert job.problem.startswith("01_one.ipynb must be a notebook, got ")


def test_settings_without_which_nothing_runs(folder):
    write_notebook(folder, "01_one", ["x = 1"])
    (folder / "common.yaml").write_text("all: {offline: true, model: m}\nmini: {}\nfull: {}")
    assert "must have offline, solutions, timeout_s, model, lack solutions" in plan("full")[0].problem


def test_a_malformed_record_of_another_notebook_is_an_error_before_anything_runs(folder, capsys):
    for name in ("01_one", "02_two"):
        write_notebook(folder, name, ["x = 1"])
    record = reports_dir("mini") / "runs" / "02_two.json"
    record.parent.mkdir(parents=True)
    for content in ("{", "[]", "3", '{"status": "fine"}', '{"status": "ok", "seconds": NaN}'):
        record.write_text(content)
        assert main(["reproduce", "--profile", "mini", "--no-report", "--only", "1"]) == 2
        err = capsys.readouterr().err
        assert str(record) in err and "remove" in err and err.count("\n") == 1
    assert not (reports_dir("mini") / "runs" / "01_one.json").exists()


WITHOUT = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
from diffclf.commands.main import main
sys.exit(main({argv}))
"""


@pytest.mark.parametrize(
    ("hidden", "argv", "extra"),
    [
        (["papermill", "nbformat"], ["reproduce", "--dry-run"], "notebooks"),
        (["yaml"], ["reproduce", "--no-report"], "notebooks"),
        (["sphinx", "jinja2", "myst_nb"], ["reproduce"], "report"),
        (["jinja2", "markupsafe"], ["report"], "report"),
        (["matplotlib"], ["report"], "report"),
    ],
)
def test_without_an_extra_the_message_names_it(folder, hidden, argv, extra):
    write_notebook(folder, "01_one", ["x = 1"])
    out, err = (process := command("-c", WITHOUT.format(hidden=hidden, argv=argv))).communicate()
    assert (process.returncode, out) == (2, ""), err
    assert (
        err
        == f"diffclf: error: `diffclf {argv[0]}` needs {', '.join(sorted(hidden))}: pip install 'diffclf[{extra}]'\n"
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"parameters": {"n_imagse": "3"}}, r"n_images, seed\), got 'n_imagse'"),
        ({"parameters": {"n_images": "many"}}, "n_images must be of type int, got 'many'"),
        ({"parameters": {"n_images": "2.5"}}, "n_images must be of type int, got 2.5"),
        ({"parameters": {"n_images": "-3"}}, "n_images must be at least 1, got -3"),
        ({"parameters": {"profile": "full"}}, "--profile"),
        ({"only": ["07"]}, r"number or name \(01_one\), got '07'"),
        ({"only": ["one"]}, "got 'one'"),
        ({"profile": "huge"}, "profile must be one of smoke, mini, full, paper, got 'huge'"),
        ({"n_parallel": 0}, "--jobs must be at least 1, got 0"),
    ],
)
def test_wrong_requests_are_errors_before_anything_runs(folder, request_, message):
    write_notebook(folder, "01_one", ["x = 1"])
    with pytest.raises(ValueError, match=message):
        reproduce(**request_)
    assert not reports_dir("mini").exists()


def test_parameter_goes_only_to_notebooks_that_have_it(folder):
    write_notebook(folder, "01_one", ["x = 1"])
    parameters = 'profile: str = ""\nwidth: float = 0.0\nmodel: str = ""'
    write_notebook(folder, "02_two", ["y = 1"], settings={"all": {"width": 1.5}}, parameters=parameters)
    first, second = plan("mini", parameters={"width": "3", "model": "7"})
    assert first.parameters == {"profile": "mini"}
    assert second.parameters == {"profile": "mini", "width": 3, "model": "7"}
    assert (second.settings["width"], second.settings["model"]) == (3, "7")


WAIT_FOR_THE_OTHER = """
import time
from pathlib import Path
Path({own!r}).touch()
until = time.monotonic() + {seconds}
while not Path({other!r}).exists() and time.monotonic() < until:
    time.sleep(0.05)
assert Path({other!r}).exists(), "alone"
"""


@pytest.mark.parametrize(
    ("gpus", "seconds", "expected"),
    [([], 60, {"01_one": "ok", "02_two": "ok"}), (["a GPU"], 0.5, {"01_one": "failed", "02_two": "ok"})],
)
def test_two_notebooks_run_at_a_time_and_with_a_gpu_one(folder, tmp_path, monkeypatch, gpus, seconds, expected):
    monkeypatch.setattr(runner, "environment", lambda: {**environment(), "gpus": gpus})
    files = {"01_one": str(tmp_path / "1"), "02_two": str(tmp_path / "2")}
    for name, own in files.items():
        (other,) = set(files.values()) - {own}
        write_notebook(folder, name, [WAIT_FOR_THE_OTHER.format(own=own, other=other, seconds=seconds)])
    reproduce("mini")
    assert statuses() == expected


@pytest.mark.parametrize(("given", "expected"), [("6", "3"), ("6,2", "3"), ("1", "1"), ("all", "4"), (None, "4")])
def test_notebooks_share_the_threads_that_are_given(tmp_path, monkeypatch, given, expected):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert runner._child_environment(2, False, tmp_path)["OMP_NUM_THREADS"] == expected


@pytest.fixture
def budgets(monkeypatch):
    """Experiments of notebooks 01_one and 02_two: 100 evaluations an image."""
    for name in ("01_one", "02_two"):
        experiment = SimpleNamespace(evaluations=lambda settings: 10 * settings["n_classes"] * settings["n_images"])
        monkeypatch.setitem(sys.modules, f"diffclf.experiments.e{name}", experiment)


def test_cost_adds_up(folder, budgets):
    for name in ("01_one", "02_two"):
        write_notebook(folder, name, ["x = 1"])
    write_notebook(folder, "03_untagged", ["x = 1"], tag="other")
    jobs = plan("mini", parameters={"n_images": 20})
    rows = [line.split("  ") for line in cost_report(jobs, rate=lambda name: 10.0).splitlines()[1:]]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    assert rows[0] == ["01_one", "2,000", "about 3 min 20 s", "none"] and rows[2][:3] == ["03_untagged", "–", "–"]
    assert rows[-1] == ["total", "4,000", "about 6 min 40 s", "none"]
    assert "total        4,000        not measured" in cost_report(jobs, rate=lambda name: "no such model")
    write_notebook(folder, "04_other", ["x = 1"])
    with pytest.raises(ValueError, match="04_other must have a module diffclf.experiments.e04_other with evaluations"):
        evaluations(plan("mini", ["4"])[0])


def test_cost_names_downloads_and_takes_local_folders(folder, budgets, tmp_path):
    settings = {"all": {"model": "nobody/no-model", "dataset": "pets", "download_gb": {"nobody/no-model": 5.2}}}
    parameters = 'profile: str = ""\nmodel: str = ""\ndataset: str = ""'
    write_notebook(folder, "01_one", ["x = 1"], settings=settings, parameters=parameters)
    line = cost_report(plan("mini"), rate=lambda name: 10.0).splitlines()[1]
    assert "not measured: model not here" in line
    assert "nobody/no-model (about 5.2 GB), pets (about 0.4 GB, timm/oxford-iiit-pet, CC-BY-SA-4.0)" in line
    (job,) = plan("mini", parameters={"model": str(tmp_path), "dataset": str(tmp_path)})
    assert job.settings["model"] == job.settings["dataset"] == str(tmp_path)
    assert cost_report([job], rate=lambda name: 10.0).splitlines()[1].endswith("none")


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


def test_a_folder_gets_its_full_path_and_a_name_stays(folder, tmp_path, monkeypatch):
    parameters = 'profile: str = ""  # profile\nmodel: str = ""  # model\ndataset: str = ""  # images'
    write_notebook(folder, "01_good", GOOD, parameters=parameters)
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "mini-sd", "pets"):
        (tmp_path / name).mkdir()
    for name, expected in (("mine", str(tmp_path / "mine")), ("mini-sd", "mini-sd"), ("pets", "pets"), ("a/b", "a/b")):
        (job,) = plan("mini", parameters={"model": name, "dataset": name})
        assert job.parameters["model"] == job.settings["model"] == job.settings["dataset"] == expected
