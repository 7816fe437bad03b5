"""Settings of every test: no network, no screen, no idle threads that spin, no writing into the checkout.

They are set before anything imports torch or a Hugging Face library, which read them once.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="agg")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' tensors are too small to share out
os.environ.pop("DIFFCLF_PROFILE", None)

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _reports_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_REPORTS", str(tmp_path / "reports"))
