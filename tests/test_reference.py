"""The reference run is whole, small, and replaces the one before."""

import numpy as np
import pytest
from notebook_maker import write_notebook
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffclf.files import write_json
from diffclf.workbook import results
from diffclf.workbook.results import copy_reference
from diffclf.workbook.settings import reports_dir


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
    record = {"status": "ok", "seconds": 3.0, "error": "", "parameters": {"dataset": "/a/secret/place"}, "seed": 0}
    write_json(folder / "runs" / "01_one.json", record)
    return folder


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
    write_json(path, {"status": status}) if status else path.unlink()
    with pytest.raises(ValueError, match="must be whole: .*01_one"):
        copy_reference()
