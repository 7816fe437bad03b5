"""A run made again is compared with the reference, number by number."""

import pytest
from notebook_maker import make_claim, write_notebook

from diffclf.commands.main import main
from diffclf.files import write_json
from diffclf.workbook.comparison import compare_claims, compare_numbers
from diffclf.workbook.provenance import environment
from diffclf.workbook.settings import reports_dir

NOTEBOOK = "01_one"


def write_run(folder, estimates, cell="80.0", width=2.0):
    """Write a run with a claim per estimate, whose intervals have this half width, and a table of one row."""
    shown = {"level": 0.95, "n": 10, "verdict": "holds", "words": "holds", "paper": None, "paper_note": ""}
    shown |= {"notebook": NOTEBOOK, "detail": "", "profile": "full", "world": "the mini world"}
    claims = [
        {**make_claim(f"c{number}"), **shown, "estimate": value, "low": value - width, "high": value + width}
        for number, value in enumerate(estimates)
    ]
    write_json(folder / "claims" / f"{NOTEBOOK}.json", {"claims": claims})
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "tables" / f"{NOTEBOOK}-t.csv").write_text(f"method,accuracy,seconds\nrace,{cell},7.5\nstaged,,8\n")
    facts = {"status": "ok", "seconds": 3.0, "settings": {}, "environment": environment(), "model": None, "seed": 0}
    write_json(folder / "runs" / f"{NOTEBOOK}.json", facts)
    return folder


def test_numbers_agree_to_a_thousandth(tmp_path):
    reference = write_run(tmp_path / "a", [1.0, 100.0])
    assert compare_numbers(write_run(tmp_path / "b", [1.0009, 100.09], "80.07"), reference, [NOTEBOOK]) == (14, [])
    n, lines = compare_numbers(write_run(tmp_path / "b", [1.0, 100.5], "80.2"), reference, [NOTEBOOK])
    assert (n, len(lines)) == (14, 4)
    assert lines[0] == "claim c1, estimate: got 100.5, reference 100.0"
    assert lines[-1] == f"{NOTEBOOK}-t, row 1 race, accuracy: got 80.2, reference 80.0"
    assert compare_numbers(tmp_path / "b", reference, ["02_other"]) == (0, [])


def test_a_number_that_is_missing_differs(tmp_path):
    reference = write_run(tmp_path / "a", [1.0, 2.0])
    _, lines = compare_numbers(write_run(tmp_path / "b", [1.0]), reference, [NOTEBOOK])
    assert lines[0] == "claim c1, estimate: got missing, reference 2.0" and len(lines) == 5
    _, lines = compare_numbers(reference, tmp_path / "b", [NOTEBOOK])
    assert lines[0] == "claim c1, estimate: got 2.0, reference missing" and len(lines) == 5


def test_times_are_not_compared(tmp_path):
    reference, run = write_run(tmp_path / "a", [1.0]), write_run(tmp_path / "b", [1.0])
    table = run / "tables" / f"{NOTEBOOK}-t.csv"
    table.write_text(table.read_text().replace("7.5", "9.5"))
    assert compare_numbers(run, reference, [NOTEBOOK])[1] == []


def test_another_seed_is_tested_with_both_errors_and_all_claims(tmp_path):
    # Half widths of 1.96 are standard errors of 1, of a difference sqrt(2): z = 2.12, p = 0.034; of two claims 0.068.
    reference = write_run(tmp_path / "a", [0.0], width=1.96)
    one = compare_claims(write_run(tmp_path / "b", [3.0], width=1.96), reference, [NOTEBOOK])
    assert one == (1, ["claim c0: got 3, reference 0, p = 0.034"])
    reference = write_run(tmp_path / "a", [0.0, 0.0], width=1.96)
    assert compare_claims(write_run(tmp_path / "b", [3.0, 0.0], width=1.96), reference, [NOTEBOOK]) == (2, [])
    n, lines = compare_claims(write_run(tmp_path / "b", [3.5, 0.0], width=1.96), reference, [NOTEBOOK])
    assert n == 2 and lines == ["claim c0: got 3.5, reference 0, p = 0.027"]


def test_an_unbounded_interval_is_not_tested(tmp_path):
    reference, run = write_run(tmp_path / "a", [0.0]), write_run(tmp_path / "b", [9.0])
    text = (run / "claims" / f"{NOTEBOOK}.json").read_text()
    (run / "claims" / f"{NOTEBOOK}.json").write_text(text.replace('"low": 7.0', '"low": null'))
    assert compare_claims(run, reference, [NOTEBOOK]) == (0, [])


@pytest.mark.parametrize(("again", "status", "words"), [(1.0, 0, "none differ"), (1.5, 1, "3 differ")])
def test_command_runs_and_compares(again, status, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFCLF_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path / "notebooks"))
    write_notebook(tmp_path / "notebooks", NOTEBOOK, ["x = 1"])
    write_run(reports_dir("reference"), [1.0])

    def reproduce(profile, only, parameters, n_parallel):
        assert (profile, only, parameters, n_parallel) == ("full", [NOTEBOOK], {}, None)
        write_run(reports_dir("full"), [again])
        return 0

    monkeypatch.setattr("diffclf.workbook.run.runner.reproduce", reproduce)
    assert main(["verify"]) == status
    assert words in capsys.readouterr().out
    assert (tmp_path / "reports" / "verify" / "full" / "runs").is_dir()


def test_command_without_a_reference(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path / "notebooks"))
    write_notebook(tmp_path / "notebooks", NOTEBOOK, ["x = 1"])
    assert main(["verify"]) == 2
    assert "must be in the reference run (none)" in capsys.readouterr().err
