"""What produced a result: versions, commit, machine, threads."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["environment"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGES = ("diffclf", "torch", "diffusers", "transformers", "numpy", "scipy", "matplotlib", "papermill")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return what git says about the checkout; None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_CHECKOUT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Return the names of the graphics processors, if torch is already loaded; loading it takes seconds."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def environment() -> dict[str, Any]:
    """Return versions, a hash of all installed packages, commit, machine and threads, as plain data."""
    installed = sorted(f"{dist.name}=={dist.version}" for dist in metadata.distributions())
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "installed": hashlib.sha256("\n".join(installed).encode()).hexdigest()[:16],
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "threads": torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }
