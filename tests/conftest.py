"""Settings of every test, and the models that many tests share.

No network, no screen, no idle threads that spin, no writing into the checkout. The settings are made before anything
imports torch or a Hugging Face library, which read them once.
"""

import os
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


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory):
    """The folder of a tiny random Stable Diffusion; copy it before changing a file."""
    from tiny import save_tiny_sd

    return save_tiny_sd(tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture(scope="session")
def tiny_dit_folder(tmp_path_factory):
    """The folder of a tiny random DiT with a learned variance; copy it before changing a file."""
    from tiny import save_tiny_dit

    return save_tiny_dit(tmp_path_factory.mktemp("tiny-dit"))


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory):
    """The folder of a tiny random Stable Diffusion XL; copy it before changing a file."""
    from tiny import save_tiny_sdxl

    return save_tiny_sdxl(tmp_path_factory.mktemp("tiny-sdxl"))


@pytest.fixture(scope="session")
def tiny_sd3_folder(tmp_path_factory):
    """The folder of a tiny random Stable Diffusion 3 with T5; copy it before changing a file."""
    from tiny import save_tiny_sd3

    return save_tiny_sd3(tmp_path_factory.mktemp("tiny-sd3"))


@pytest.fixture(scope="session")
def tiny_alpha_folder(tmp_path_factory):
    """The folder of a tiny random PixArt-alpha that reads sizes; copy it before changing a file."""
    from tiny import save_tiny_pixart

    return save_tiny_pixart(tmp_path_factory.mktemp("tiny-alpha"))


@pytest.fixture(scope="session")
def tiny_sigma_folder(tmp_path_factory):
    """The folder of a tiny random PixArt-Sigma; copy it before changing a file."""
    from tiny import save_tiny_pixart

    return save_tiny_pixart(tmp_path_factory.mktemp("tiny-sigma"), sigma=True)


@pytest.fixture(scope="session")
def tiny_sdxl(tiny_sdxl_folder):
    return load_model(tiny_sdxl_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_sd3(tiny_sd3_folder):
    return load_model(tiny_sd3_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_alpha(tiny_alpha_folder):
    return load_model(tiny_alpha_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_sigma(tiny_sigma_folder):
    return load_model(tiny_sigma_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_sd(tiny_sd_folder):
    return load_model(tiny_sd_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_dit(tiny_dit_folder):
    return load_model(tiny_dit_folder, device="cpu")


@pytest.fixture(scope="session")
def gaussian():
    """Two overlapping round classes in two dimensions."""
    return GaussianMixtureModel(means=[[-0.5, 0.0], [0.5, 0.25]], variances=[0.3, 0.3])
