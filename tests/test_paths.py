"""Where the data, the notebooks and the reports are looked for, in a checkout and in an installed copy."""

from pathlib import Path

import pytest

from diffclf import paths
from diffclf.baselines.contrastive import load_contrastive
from diffclf.baselines.features import load_features
from diffclf.baselines.supervised import load_supervised
from diffclf.datasets import load_dataset
from diffclf.models import ModelError, load_model
from diffclf.models.loading import built_in_models
from diffclf.workbook.provenance import environment
from diffclf.workbook.settings import notebooks_dir, reports_dir


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As if the package lay in site-packages, beside a folder `data` of another package; no variable is set."""
    for name in ("DATA", "NOTEBOOKS", "REPORTS"):
        monkeypatch.delenv(f"DIFFCLF_{name}", raising=False)
    (tmp_path / "site-packages" / "data").mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "diffclf" / "paths.py"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_checkout_is_known_by_its_pyproject(installed, monkeypatch):
    assert paths.checkout() is None
    (installed / "site-packages" / "pyproject.toml").touch()
    assert paths.checkout() == paths.home() == installed / "site-packages"
    assert paths.data_dir() == installed / "site-packages" / "data"
    monkeypatch.setenv("DIFFCLF_DATA", str(installed))
    assert paths.data_dir() == installed


def test_an_installed_copy_says_how_to_get_the_embedded_world(installed, tiny_sd, tiny_sd_folder):
    how = r"data folder not found: .*\$DIFFCLF_DATA \(not set\); it comes with the repository .*export DIFFCLF_DATA="
    with pytest.raises(FileNotFoundError, match=how):
        load_dataset("mini-items")
    for load in (load_model, load_supervised, load_contrastive):
        with pytest.raises(ModelError, match=f"not built in .none: {how}"):
            load("mini-sd")
    with pytest.raises(ModelError, match="head features-items cannot be read"):
        load_features("features-items", tiny_sd)
    assert built_in_models() == {}
    assert load_model(tiny_sd_folder).fingerprint == tiny_sd.fingerprint


def test_an_installed_copy_reads_and_writes_below_the_current_folder(installed):
    assert notebooks_dir() == installed / "here" / "notebooks"
    assert reports_dir("mini") == installed / "here" / "reports" / "mini"
    assert environment()["commit"] is None  # not that of a repository around the virtual environment


def test_the_tests_have_the_data_of_their_own_checkout():
    assert paths.data_dir().samefile(Path(__file__).parents[1] / "data")
