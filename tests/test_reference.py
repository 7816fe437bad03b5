"""The reference run is whole, small, and replaces the one before."""

from pathlib import Path

import numpy as np
import pytest
from notebook_maker import make_claim, write_notebook
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffclf.commands.main import main
from diffclf.commands.reference import QUESTIONS, results_table, with_results
from diffclf.files import write_json
from diffclf.workbook import results
from diffclf.workbook.claims import read_claims
from diffclf.workbook.display import how_judged
from diffclf.workbook.provenance import environment
from diffclf.workbook.results import copy_reference, read_run
from diffclf.workbook.settings import reports_dir

ROOT = Path(__file__).parents[1]


@pytest.fixture
def full(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path / "notebooks"))
    write_notebook(tmp_path / "notebooks", "01_one", ["x = 1"])
    folder = reports_dir("full")
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True)
    described = PngInfo()
    described.add_itxt("Description", "A grey ramp – ε")
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).convert("RGB").save(folder / "figures" / "01_one-ramp.png", pnginfo=described)
    (folder / "figures" / "01_one-ramp.svg").write_text("<svg/>")
    (folder / "tables" / "01_one-t.csv").write_text("a\n1\n")
    write_json(folder / "claims" / "01_one.json", {"claims": []})
    write_json(folder / "runs" / "01_one.json", made_at("0123456789ab"))
    return folder


def made_at(commit, model=None):
    """Return the record of a notebook's run."""
    record = {"status": "ok", "seconds": 3.0, "error": "", "parameters": {"dataset": "/a/secret/place"}, "seed": 0}
    return {**record, "settings": {}, "environment": {**environment(), "commit": commit}, "model": model}


def test_copies_claims_tables_and_figures(full):
    write_json(reports_dir("reference") / "claims" / "99_old.json", {})
    target = copy_reference()
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == ["claims/01_one.json", "figures/01_one-ramp.png", "runs/01_one.json", "tables/01_one-t.csv"]
    with Image.open(target / "figures" / "01_one-ramp.png") as image:
        assert image.info["Description"] == "A grey ramp – ε"
        assert np.abs(np.asarray(image.convert("L"))[0].astype(int) - np.arange(256)).max() <= 2
    assert "secret" not in (target / "runs" / "01_one.json").read_text()


def test_too_large_is_an_error(full, monkeypatch):
    monkeypatch.setattr(results, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"below 100 bytes, got .* largest: figures/01_one-ramp.png"):
        copy_reference()
    assert not reports_dir("reference").exists()


@pytest.mark.parametrize("status", ["failed", "running", None])
def test_a_run_that_is_not_whole_is_an_error(full, status):
    path = full / "runs" / "01_one.json"
    write_json(path, {**made_at("0123456789ab"), "status": status}) if status else path.unlink()
    with pytest.raises(ValueError, match="must be whole: .*01_one"):
        copy_reference()


def test_results_of_some_notebooks_are_replaced_and_those_of_the_others_stay(full, tmp_path):
    target = copy_reference()
    write_notebook(tmp_path / "notebooks", "02_two", ["x = 1"])
    with pytest.raises(ValueError, match="must be whole: not run 02_two"):
        copy_reference()
    assert results_table(target).endswith("Not in the reference run: 02_two.")
    write_json(full / "runs" / "02_two.json", made_at("ba9876543210"))
    (full / "tables" / "01_one-t.csv").write_text("a\n3\n")
    (full / "tables" / "02_two-t.csv").write_text("a\n2\n")
    write_json(target / "claims" / "02_two.json", {"old": True})
    copy_reference(only=["2"])
    assert [(target / "tables" / f"{name}-t.csv").read_text() for name in ("01_one", "02_two")] == ["a\n1\n", "a\n2\n"]
    assert (target / "figures" / "01_one-ramp.png").is_file() and not (target / "claims" / "02_two.json").exists()
    commits = [record["environment"]["commit"] for record in read_run(target).values()]
    assert commits == ["0123456789ab", "ba9876543210"]
    with pytest.raises(ValueError, match="got '7'"):
        copy_reference(only=["7"])


@pytest.mark.parametrize("second", ["ba9876543210", "0123456789ab-dirty", None])
def test_a_run_of_changed_or_different_code_is_an_error(full, second, tmp_path):
    write_notebook(tmp_path / "notebooks", "02_two", ["x = 1"])
    write_json(full / "runs" / "02_two.json", made_at(second))
    with pytest.raises(ValueError, match=f"one commit without local changes, got 01_one 0123456789ab, 02_two {second}"):
        copy_reference()


def test_a_run_with_other_weights_is_an_error(full, mini_sd):
    model = {"name": "mini-sd", "dtype": "float32", "fingerprint": mini_sd.fingerprint}
    write_json(full / "runs" / "01_one.json", made_at("0123456789ab", model))
    assert copy_reference().is_dir()
    write_json(full / "runs" / "01_one.json", made_at("0123456789ab", {**model, "fingerprint": "older"}))
    with pytest.raises(ValueError, match=f"mini-sd in 01_one .* shipped now, {mini_sd.fingerprint}, got older"):
        copy_reference()


def test_command_leaves_the_readme_alone_where_reports_are_elsewhere(full, capsys):
    before = (ROOT / "README.md").read_bytes()
    assert main(["reference"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Reference: ") and "README" not in out
    assert (ROOT / "README.md").read_bytes() == before


def test_results_table_has_a_row_per_judged_claim(tmp_path):
    found = {"estimate": -0.05, "low": None, "high": 1.0, "level": 0.95, "n": 10, "verdict": "holds", "paper": 2.5}
    found |= {"notebook": "04_any", "words": "holds in the mini world", "paper_note": "", "detail": ""}
    found |= {"profile": "full", "world": "the mini world"}
    claims = [{**make_claim(id), **found} for id in ("staged-not-worse", "not-there")]
    write_json(tmp_path / "claims" / "04_any.json", {"claims": claims})
    first, second, *rows, empty, missing = results_table(tmp_path).splitlines()
    assert first.count("|") == second.count("|") == 5
    number = "−0.0500 [−∞, 1] points"
    assert empty == "" and missing.startswith("Not in the reference run: 00_start_here, 01_")
    assert rows == [f"| {QUESTIONS['staged-not-worse']} | 2.50 points | {number} | ✓ holds in the mini world |"]


def test_table_has_one_claim_of_each_notebook():
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert [len(read_claims(name).keys() & QUESTIONS.keys()) for name in names] == [1] * len(QUESTIONS)


def test_notes_end_with_a_full_stop():
    found = {"direction": "greater", "level": 0.95, "covers": ["images"], "n": 10, "margin": 1}
    for note, detail in (("read from Figure 3", "10 of 12"), ("read from Figure 3.", "10 of 12.")):
        told = how_judged({**make_claim("one"), **found, "paper_note": note, "detail": detail})
        assert told.endswith(" read from Figure 3. 10 of 12.")
    assert how_judged({**make_claim("one"), **found, "paper_note": "", "detail": ""}).endswith("images, n = 10.")


def test_results_replace_what_stands_between_the_markers():
    text = "a\n<!-- results -->\nold\n<!-- /results -->\nb\n"
    assert with_results(text, "new") == "a\n<!-- results -->\nnew\n<!-- /results -->\nb\n"
    for wrong in ("a", "<!-- results -->", "<!-- /results --><!-- results -->", text + text):
        with pytest.raises(ValueError, match="README.md must have one line <!-- results -->"):
            with_results(wrong, "new")


def test_readme_has_the_results_of_the_reference_run():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_results(readme, results_table(ROOT / "reports" / "reference")) == readme
