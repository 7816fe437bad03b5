"""Settings of every test, and the models that many tests share.

No network, no screen, no idle threads that spin, no writing into the checkout. The settings are made before anything
imports torch or a Hugging Face library, which read them once.
"""

import os
from importlib import import_module
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="agg")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' tensors are too small to share out
os.environ.pop("DIFFCLF_PROFILE", None)
for folder in ("data", "notebooks"):  # an installed copy of the package does not find the checkout by itself
    os.environ.setdefault(f"DIFFCLF_{folder.upper()}", str(Path(__file__).parents[1] / folder))

import pytest  # noqa: E402

from diffclf.models import load_model  # noqa: E402
from diffclf.models.gaussian import GaussianMixtureModel  # noqa: E402


@pytest.fixture(autouse=True)
def _reports_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_REPORTS", str(tmp_path / "reports"))


@pytest.fixture(scope="session")
def mini_sd():
    return load_model("mini-sd", device="cpu")


TINY = {
    "tiny_sd": ("sd", {}),
    "tiny_dit": ("dit", {}),
    "tiny_sdxl": ("sdxl", {}),
    "tiny_sd3": ("sd3", {}),
    "tiny_sd3_without_t5": ("sd3", {"t5": False}),
    "tiny_alpha": ("pixart", {}),
    "tiny_sigma": ("pixart", {"sigma": True}),
}
"""Fixture -> the function `save_tiny_...` of tests/tiny.py, and its options."""


def _tiny(name):
    """Return the fixtures of a tiny random model: its folder, to be copied before a file is changed; the model."""
    kind, options = TINY[name]

    @pytest.fixture(scope="session", name=f"{name}_folder")
    def folder(tmp_path_factory):
        save = getattr(import_module("tiny"), f"save_tiny_{kind}")
        return save(tmp_path_factory.mktemp(name.replace("_", "-")), **options)

    @pytest.fixture(scope="session", name=name)
    def model(request):
        return load_model(request.getfixturevalue(f"{name}_folder"), device="cpu")

    return folder, model


for tiny_name in TINY:
    globals()[f"_{tiny_name}_folder"], globals()[f"_{tiny_name}"] = _tiny(tiny_name)


@pytest.fixture(scope="session")
def gaussian():
    """Two overlapping round classes in two dimensions."""
    return GaussianMixtureModel(means=[[-0.5, 0.0], [0.5, 0.25]], variances=[0.3, 0.3])
