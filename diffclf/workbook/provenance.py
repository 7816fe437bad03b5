"""What produced a result: versions, commit, machine, threads, model."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffclf.models.protocol import DiffusionModel

__all__ = ["describe", "duration", "environment", "model_facts", "notebook_facts"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGES = ("diffclf", "torch", "diffusers", "transformers", "numpy", "scipy", "matplotlib", "papermill")


def _git(*arguments: str) -> str | None:
    """Return what git says about the checkout; None where there is no git or no repository."""
    command = ["git", "-C", str(_CHECKOUT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Return versions, commit, machine and threads, as plain values.

    GPUs and torch's threads are only known where torch is loaded already; loading it takes seconds.
    """
    versions = {dist.name: dist.version for dist in metadata.distributions()}
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    torch = sys.modules.get("torch")
    n_gpus = torch.cuda.device_count() if torch and torch.cuda.is_available() else 0
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: versions.get(name) for name in _PACKAGES},
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(n_gpus)],
        "threads": torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }


def describe(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of `environment()` in words: name of the fact -> text."""
    commit = "no repository" if environment["commit"] is None else environment["commit"][:12]
    return {
        "Commit": commit + (" with local changes" if environment["dirty"] else ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version),
        "Python": f"{environment['python']}, {environment['platform']}",
        "Hardware": ", ".join([f"{environment['cpu']}, {environment['cores']} cores", *environment["gpus"]]),
        "Threads": str(environment["threads"]),
    }


def model_facts(model: DiffusionModel) -> dict[str, str]:
    """Return what identifies a model, and how it computes."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {"name": model.name, "fingerprint": model.fingerprint, "dtype": dtype, "device": str(model.device)}


def duration(seconds: float) -> str:
    """Return a duration in seconds, in minutes and seconds, or in hours."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 90:
        return f"{seconds / 3600:.1f} h"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def notebook_facts(record: Mapping[str, Any], profile: str, seconds: float) -> dict[str, str]:
    """Return in words what produced a notebook's numbers.

    Args:
        record: `environment`, `settings` and, if a model was loaded, `model`.
        profile: name of the profile.
        seconds: wall time.
    """
    model = "{name}, weights {fingerprint}, {dtype} on {device}"
    return {
        "Profile": profile,
        "Settings": ", ".join(f"{name} = {value}" for name, value in record["settings"].items()),
        "Model": model.format(**record["model"]) if "model" in record else "none",
        **describe(record["environment"]),
        "Wall time": duration(seconds),
    }
